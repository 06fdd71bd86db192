"""Files on the disk: written through, known by their SHA-256; where the user keeps edgepipe's."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base import StorageFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What libraries write into temporary files at a time, in sizes of the model they are given.
COPIES = 4


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def move_synced(source: Path, target: Path) -> None:
    """Move a file, which is copied bit by bit to another disk, and wait until it is there."""
    shutil.move(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def temporary_files(model_bytes: int = 0) -> Iterator[None]:
    """Raise ``StorageFull`` for what fails because temporary files have no room.

    Native code may not tell: whatever fails counts that is about a model of ``model_bytes`` while
    there is no room for a few copies of it.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        folder = temporary_folder()
        if number not in FULL:
            if not model_bytes or shutil.disk_usage(folder).free >= COPIES * model_bytes:
                raise
            number = errno.ENOSPC
        raise StorageFull(
            f"can't write temporary files in {folder}: {os.strerror(number)}; free some space "
            "there, or set TMPDIR to a folder that has more"
        ) from error


def temporary_folder() -> Path:
    """Where a user's temporary files lie; those of a command have folders of their own in it."""
    folder = Path(tempfile.gettempdir())
    return next(one for one in (folder, *folder.parents) if not one.name.startswith("edgepipe-"))


def is_file_name(name: str) -> bool:
    """Whether it names a file of a folder, and nothing elsewhere."""
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where edgepipe keeps what it can get again: in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return _of_user("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """Where edgepipe keeps its notes: in ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    return _of_user("XDG_STATE_HOME", ".local/state")


def _of_user(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default).absolute() / "edgepipe"


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    if sys.platform == "win32":  # a folder can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
