"""The images of a shard: read by path where the same files are there, else sent along.

On the machine of whoever asks a file is the same if its inode, size and time of change are. On
another one it has to have the same SHA-256; where one hasn't, all further shards bring the
files' bytes with them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....runners import images
from ....runners.base import ImageError
from ....runners.machine.files import sha256_file, temporary_files
from ...storage.dataset import Dataset
from ...storage.manifest import digest
from . import environment

# How the images of a shard come to a worker.
SAME_MACHINE, SAME_FILES, SENT = "same machine", "same files", "sent"


class ElsewhereError(Exception):
    """A worker does not have the images at their paths."""


@dataclass(frozen=True)
class Part:
    """Images ``start`` to ``start + len(labels)`` of a data set.

    ``files`` are their paths with what tells them from others: by ``by`` nothing but the kernel's
    word (inode, size, time), or a SHA-256. ``data`` are their bytes if they are sent; images that
    are no files are in ``arrays``.
    """

    start: int
    labels: np.ndarray
    bands: int | None
    by: str
    kernel: str = ""
    files: tuple[tuple[str, str], ...] = ()
    data: tuple[bytes, ...] = ()
    arrays: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, data: Dataset, rows: range, by: str) -> Part:
        """Some images of a data set. Raises ``ImageError`` for one that can't be read any more."""
        part = {"start": rows.start, "labels": data.labels[rows.start : rows.stop], "by": by}
        part |= {"bands": data.bands, "kernel": environment.kernel()}
        if not data.files:
            return cls(arrays=tuple(map(data.image, rows)), **part)
        paths = [data.files[row].absolute() for row in rows]
        with _named(paths):
            if by == SENT:
                files = [(str(path), "") for path in paths]
                return cls(
                    files=tuple(files), data=tuple(path.read_bytes() for path in paths), **part
                )
            mark = _stamp if by == SAME_MACHINE else sha256_file
            return cls(files=tuple((str(path), mark(path)) for path in paths), **part)

    @contextmanager
    def dataset(self) -> Iterator[Dataset]:
        """The images as a data set of their own. Raises ``ElsewhereError`` if they aren't here."""
        if not self.files:
            yield self._of(self.arrays.__getitem__)
            return
        if self.data:
            with temporary_files(), tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
                yield self._of(lambda row: self._sent(row, Path(folder)))
            return
        if self.by == SAME_MACHINE and self.kernel != environment.kernel():
            raise ElsewhereError
        mark = _stamp if self.by == SAME_MACHINE else sha256_file
        try:
            if any(mark(Path(path)) != told for path, told in self.files):
                raise ElsewhereError
        except OSError as error:
            raise ElsewhereError from error
        yield self._of(lambda row: images.load_image(Path(self.files[row][0]), self.bands))

    def _of(self, image: object) -> Dataset:
        return Dataset("shard", self.labels, image, "", bands=self.bands)  # pyright: ignore

    def _sent(self, row: int, folder: Path) -> np.ndarray:
        """Decode the bytes of a file, which is called by its own name if they are no image."""
        path = self.files[row][0]
        copy = folder / f"{row}{Path(path).suffix}"
        copy.write_bytes(self.data[row])
        try:
            return images.load_image(copy, self.bands)
        except ImageError as error:
            raise ImageError(str(error).replace(str(copy), path)) from error
        finally:
            copy.unlink()


def stamps(data: Dataset, rows: range) -> str:
    """Digest of which images these are, as far as the kernel tells without reading them."""
    found = [data.digest, rows.start, rows.stop]
    if data.files:
        paths = [data.files[row].absolute() for row in rows]
        with _named(paths):
            found += [(str(path), _stamp(path)) for path in paths]
    return digest(found)


def _stamp(path: Path) -> str:
    found = os.stat(path)
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"


@contextmanager
def _named(paths: list[Path]) -> Iterator[None]:
    """An image that was there when the folder was listed may be gone."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{error.filename or paths[0]}: {error.strerror or error}") from error
