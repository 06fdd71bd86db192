"""Files on the disk: written through, known by their SHA-256; where the user keeps edgepipe's."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
