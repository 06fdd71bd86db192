"""Labelled images to judge accuracy on: the embedded digits, or a folder with one for each class.

Images are decoded when they are needed, a chunk ahead of the one in use, so that memory does
not grow with their number. Kept of a folder is only the list of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runners import images
from ..runners.images import Pixels, Preprocessing
from . import digits as embedded
from .errors import InputError

# Two at a time keep a worker busy with pictures of a camera, and bound what is in memory.
DECODERS = 2
LABELS_SHOWN = 20


@dataclass(frozen=True)
class Dataset:
    """Images with their classes.

    ``labels`` are int64 ``[N]``, indices into the model's classes; ``image(i)`` decodes one:
    uint8 ``[H, W]`` or ``[H, W, 3]``. ``digest`` is of the digits' pixels, or of the list of
    files: class, name and size of each. ``notes`` is what a reader has to know about it.
    """

    name: str
    labels: np.ndarray
    image: Callable[[int], np.ndarray]
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes have images."""
        return len(np.unique(self.labels))

    def chunks(
        self, preprocessing: Preprocessing, size: int
    ) -> Iterator[tuple[Pixels, np.ndarray]]:
        """Yield ``size`` images at the model's input size, with their labels.

        uint8 ``[n, side, side, 3]`` and int64 ``[n]``, in order. While one chunk is in use the
        next one is decoded. Raises ``ImageError`` for an image that can't be read.
        """
        pool = ThreadPoolExecutor(DECODERS, "edgepipe-decode")
        try:
            ahead: list[Future[Pixels]] = []
            for start in range(0, len(self) + size, size):
                current = ahead
                rows = range(start, min(start + size, len(self)))
                ahead = [pool.submit(self._pixels, row, preprocessing) for row in rows]
                if current:
                    pixels = np.stack([future.result() for future in current])
                    yield pixels, self.labels[start - size :][: len(pixels)]
        finally:
            pool.shutdown(cancel_futures=True)

    def _pixels(self, row: int, preprocessing: Preprocessing) -> Pixels:
        return images.to_pixels(self.image(row), preprocessing)


def digits() -> Dataset:
    """The 397 embedded digits that no training and no calibration has seen."""
    pictures, labels = embedded.pictures("held_out")
    digest = hashlib.sha256(pictures.tobytes() + labels.tobytes()).hexdigest()
    return Dataset("digits (held out)", labels.astype(np.int64), pictures.__getitem__, digest)


def class_folders(folder: Path, labels: Sequence[str]) -> Dataset:
    """The images of ``folder/LABEL/FILE``; ``labels`` are the model's, in the order of its classes.

    Every header is read here, so that most of what could go wrong does before anything runs.
    Hidden files, files that aren't images by their suffix and whatever lies elsewhere are
    ignored, and counted in ``notes``. Raises ``InputError`` for a folder that is no label or has no
    image at all, ``ImageError`` for an image that can't be read.
    """
    suffixes = _suffixes()
    files: list[str] = []
    classes: list[int] = []
    seen: set[str] = set()
    ignored = 0
    hasher = hashlib.sha256()
    for entry in _entries(folder):
        if entry.name.startswith(".") or not _is_folder(entry):
            ignored += 1
            continue
        number = _class_of(entry, labels)
        for file in _entries(entry):
            if file.name.startswith(".") or file.suffix.lower() not in suffixes or file.is_dir():
                ignored += 1
                continue
            images.check_image(file)
            size = file.stat().st_size
            hasher.update(json.dumps([entry.name, file.name, size]).encode())
            files.append(str(file))
            classes.append(number)
            seen.add(entry.name)
    if not files:
        found = f"; {ignored} other entries are none" if ignored else ""
        raise InputError(f"{folder}: no images in class folders{found}")
    return Dataset(
        str(folder),
        np.array(classes, np.int64),
        lambda row: images.load_image(Path(files[row])),
        hasher.hexdigest(),
        _notes(folder, seen, labels, ignored),
    )


def _notes(folder: Path, seen: set[str], labels: Sequence[str], ignored: int) -> tuple[str, ...]:
    notes = []
    if ignored:
        notes.append(f"{folder}: {ignored} entries ignored: hidden, no image, or not in a class")
    absent = [label for label in labels if label not in seen]
    if absent:
        notes.append(f"{folder}: no images of {len(absent)} classes: {_shown(absent)}")
    if len(seen) == 1:
        notes.append(f"{folder}: one class only: a model that always answers it would be perfect")
    return tuple(notes)


def _class_of(folder: Path, labels: Sequence[str]) -> int:
    count = labels.count(folder.name)
    if count == 1:
        return labels.index(folder.name)
    if count > 1:
        raise InputError(f"{folder}: {count} classes of the model have this label")
    raise InputError(f"{folder}: not a label of the model; known: {_shown(labels)}")


def _shown(labels: Sequence[str]) -> str:
    """A list of labels, cut where it gets long."""
    more = len(labels) - LABELS_SHOWN
    return ", ".join(labels[:LABELS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name: the order decides the digest."""
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error


def _is_folder(path: Path) -> bool:
    """``Path.is_dir``, which calls a link that leads nowhere or in circles no folder, said."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _suffixes() -> frozenset[str]:
    found = images.pillow().registered_extensions().items()
    return frozenset(suffix for suffix, kind in found if kind in images.FORMATS)
