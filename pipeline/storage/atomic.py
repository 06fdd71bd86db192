"""Files that are written whole or not at all, and what is said when they can't be."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...runners.machine.files import sync_folder
from ..errors import WorkspaceError


def write_whole(path: Path, data: bytes) -> None:
    """Put a file that stands by itself in place, whole or not at all: see ``whole``."""
    with whole(path) as file:
        file.write(data)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which takes its place on leaving, whole or not at all.

    With the folder it is in. Raises ``WorkspaceError`` if it can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def writable(root: Path) -> None:
    """Make a folder ready to be written to. Raises ``WorkspaceError`` where that can't be."""
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass


@contextmanager
def writing(
    path: Path, state: str = "What was there is unchanged", instead: str = "choose another path"
) -> Iterator[None]:
    """Turn a failed write into a ``WorkspaceError`` that says where and why, and what to do."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.EFBIG: "raise the limit on the size of a file",
            errno.ENOENT: f"make the folder {path.parent}, or {instead}",
        }.get(error.errno or 0, instead)
        raise WorkspaceError(
            f"can't write {path}: {error.strerror or error}; {hint}. {state}"
        ) from error
