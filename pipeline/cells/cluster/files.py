"""Files that a worker needs: read where they lie if they are the same there, else sent once.

A file is known by its SHA-256. A worker that shares a disk with whoever asks reads it by its path,
once it has the digest; any other is sent it in chunks and keeps it as long as it lives.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....runners.machine.files import sha256_file, temporary_files
from ...storage.manifest import digest
from .member import here

CHUNK_BYTES = 16 << 20
STORE = "edgepipe-files"
_receiving = threading.Lock()


@dataclass(frozen=True)
class Files:
    """Files that belong together, the main one first: names with SHA-256, and where they lie."""

    folder: str
    digests: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, *paths: Path) -> Files:
        """Of files of one folder."""
        digests = tuple((path.name, _digest(str(path), *_stamp(path))) for path in paths)
        return cls(str(paths[0].absolute().parent), digests)

    @property
    def key(self) -> str:
        """Names them by their contents, wherever they lie."""
        return digest(self.digests)


class MissingFiles(Exception):
    """A worker lacks files that a shard is about. Its arguments are these and its address."""

    def __init__(self, files: Files, address: str) -> None:
        super().__init__(files, address)
        self.files, self.address = files, address


def place(files: Files) -> Path:
    """Where the main file is on this worker, with the others beside it.

    Raises ``MissingFiles`` where it is neither at its path nor was sent.
    """
    folder = Path(files.folder)
    name = files.digests[0][0]
    if all(_is(folder / one, digest) for one, digest in files.digests):
        return folder / name
    kept = _store(here()) / files.key
    if kept.is_dir():
        return kept / name
    raise MissingFiles(files, here().address)


# Dask gives a function that it runs outside of a task its worker by this name.
def has(files: Files, dask_worker: Any) -> bool:
    """Whether this worker was sent them."""
    return (_store(dask_worker) / files.key).is_dir()


def chunks(files: Files) -> Iterator[tuple[str, bytes]]:
    """The files piece by piece: a name, and what comes next of it."""
    for name, _ in files.digests:
        with Path(files.folder, name).open("rb") as file:
            yield name, b""  # so that an empty one is made as well
            while data := file.read(CHUNK_BYTES):
                yield name, data


def receive(sender: str, files: Files, name: str, data: bytes, dask_worker: Any) -> None:
    """Append what ``sender`` sends of one of its files."""
    folder = _coming(dask_worker, sender, files)
    with temporary_files():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("ab") as file:
            file.write(data)


def received(sender: str, files: Files, dask_worker: Any) -> bool:
    """Keep what ``sender`` has sent. False if it isn't what was announced: it changed meanwhile."""
    folder, kept = _coming(dask_worker, sender, files), _store(dask_worker) / files.key
    intact = all(sha256_file(folder / name) == digest for name, digest in files.digests)
    with _receiving:
        if intact and not kept.is_dir():
            folder.rename(kept)
        else:
            shutil.rmtree(folder)
    return intact


def _store(worker: Any) -> Path:
    """The folder of a worker that goes with it."""
    folder = Path(worker.local_directory, STORE)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _coming(worker: Any, sender: str, files: Files) -> Path:
    return _store(worker) / f"{files.key}.{sender}"


def _is(path: Path, digest: str) -> bool:
    try:
        return _digest(str(path), *_stamp(path)) == digest
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes with a file: its inode, size and time of change (ns)."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=256)
def _digest(path: str, _inode: int, _size: int, _changed: int) -> str:
    """SHA-256 of a file, read once as long as it stays the same."""
    return sha256_file(Path(path))
