"""Images: the embedded digits, folders of them, a sample of such a folder, synthetic ones.

Images are decoded when they are needed, a chunk ahead of the one in use, so that memory does
not grow with their number. Kept of a folder is only the list of its files. ``bands`` are those of
``images.load_image``: with them files are arrays, else pictures.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from ...runners import images
from ...runners.base import ImageError
from ...runners.images import DECODERS, Pixels, Preprocessing
from ..errors import InputError
from . import digits as embedded
from . import unreadable

LABELS_SHOWN = 20
# Squares of noise that a synthetic picture is the mean of, from one patch of colour to pixels.
SYNTHETIC_SIDES = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Dataset:
    """Images with their classes.

    ``labels`` are int64 ``[N]``, indices into the model's classes, -1 where it isn't known;
    ``image(i)`` decodes one: uint8 ``[H, W]`` or ``[H, W, C]``. ``digest`` is of the digits'
    pixels, of the contents of a sample's files, or of the list of files to evaluate: class, name
    and size of each. ``notes`` is what a reader has to know about it. ``files`` are all that it
    was chosen from, which are looked through when one of them can't be read.
    """

    name: str
    labels: np.ndarray
    image: Callable[[int], np.ndarray]
    digest: str
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = field(default=(), repr=False)
    bands: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def behind(self, count: int) -> Dataset | None:
        """All but the first ``count`` images, ``None`` if there are no more."""
        if len(self) <= count:
            return None
        every = self.image
        return replace(self, labels=self.labels[count:], image=lambda row: every(row + count))

    @property
    def classes(self) -> int:
        """How many classes have images."""
        return len(np.unique(self.labels))

    def chunks(
        self, preprocessing: Preprocessing, size: int, decoders: int = DECODERS
    ) -> Iterator[tuple[Pixels, np.ndarray]]:
        """Yield ``size`` images at the model's input size, with their labels.

        uint8 ``[n, height, width, C]`` and int64 ``[n]``, in order. While one chunk is in use the
        next one is decoded. Raises ``ImageError`` that names all images that can't be read.
        """
        return self._ahead(lambda row: self._pixels(row, preprocessing), size, decoders)

    def tensors(
        self, preprocessing: Preprocessing, size: int, decoders: int = DECODERS
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As ``chunks``, and as ``images.normalize`` leaves them: the decoders do that as well.

        Without ``decoders`` nothing is done ahead, nor in any other thread than the caller's.
        """

        def tensor(row: int) -> np.ndarray:
            return images.normalize(self._pixels(row, preprocessing)[None], preprocessing)[0]

        return self._ahead(tensor, size, decoders)

    def _ahead(
        self, work: Callable[[int], np.ndarray], size: int, decoders: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not decoders:
            for start in range(0, len(self), size):
                rows = range(start, min(start + size, len(self)))
                yield np.stack([work(row) for row in rows]), self.labels[start : rows.stop]
            return
        pool = ThreadPoolExecutor(decoders, "edgepipe-decode")
        try:
            ahead: list[Future[np.ndarray]] = []
            for start in range(0, len(self) + size, size):
                current = ahead
                rows = range(start, min(start + size, len(self)))
                ahead = [pool.submit(work, row) for row in rows]
                if current:
                    try:
                        done = np.stack([future.result() for future in current])
                    except ImageError:
                        unreadable.refuse_all(self.files, self.bands)
                        raise
                    del current[:]  # else every image would be there twice
                    yield done, self.labels[start - size :][: len(done)]
        finally:
            pool.shutdown(cancel_futures=True)

    def _pixels(self, row: int, preprocessing: Preprocessing) -> Pixels:
        return images.to_pixels(self.image(row), preprocessing)


@dataclass(frozen=True)
class Decoded:
    """An image at the model's input size, uint8 ``[height, width, C]``, or why there is none."""

    file: str
    pixels: Pixels | None
    error: str | None
    decode_ms: float


def decode(
    files: Iterable[str], preprocessing: Preprocessing, decoders: int = DECODERS
) -> Iterator[Decoded]:
    """Decode files in order, a few of them ahead of the one in use."""

    def one(file: str) -> Decoded:
        started = perf_counter()
        pixels, error = None, None
        try:
            image = images.load_image(Path(file), preprocessing.bands)
            pixels = images.to_pixels(image, preprocessing)
        except ImageError as problem:
            error = str(problem)
        return Decoded(file, pixels, error, 1000 * (perf_counter() - started))

    pool = ThreadPoolExecutor(decoders, "edgepipe-decode")
    try:
        ahead: deque[Future[Decoded]] = deque()
        for file in files:
            ahead.append(pool.submit(one, file))
            if len(ahead) > 2 * decoders:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def digits(part: str = "held_out", count: int | None = None) -> Dataset:
    """The first ``count`` embedded digits: of the 397 that no training has seen, or "train"."""
    pictures, labels = (array[:count] for array in embedded.pictures(part))
    digest = hashlib.sha256(pictures.tobytes() + labels.tobytes()).hexdigest()
    name = f"digits ({part.replace('_', ' ')})"
    return Dataset(name, labels.astype(np.int64), pictures.__getitem__, digest)


def synthetic(start: int, count: int, bands: int | None = None) -> Dataset:
    """Pictures of nothing, coarse and fine texture in equal parts; number ``i`` never changes.

    Of three channels, or of so many ``bands``. Only their form is a picture's: ranges measured on
    them are not those of photographs.
    """

    def image(row: int) -> np.ndarray:
        from PIL import Image

        random = np.random.default_rng(start + row)
        layers, whole = [], SYNTHETIC_SIDES[-1]
        for side in SYNTHETIC_SIDES:
            noise = random.integers(0, 256, (side, side, bands or 3), np.uint8)
            parts = [noise] if bands is None else np.moveaxis(noise, 2, 0)
            grown = [Image.fromarray(part).resize((whole, whole)) for part in parts]
            layers.append(np.dstack([np.asarray(one, np.float32) for one in grown]))
        mixed = np.mean(layers, axis=0)
        low, high = mixed.min(), mixed.max()
        return (255 * (mixed - low) / (high - low)).astype(np.uint8)

    about = f"synthetic {start} {count} {SYNTHETIC_SIDES}{f' {bands}' if bands else ''}"
    digest = hashlib.sha256(about.encode()).hexdigest()
    return Dataset("synthetic", np.full(count, -1, np.int64), image, digest)


def of_files(
    files: Sequence[Path],
    labels: Sequence[str] = (),
    among: Sequence[Path] = (),
    bands: int | None = None,
) -> Dataset:
    """A dataset of image files; their class is the label that their folder is named after.

    The digest is of their contents. ``among`` are those that they were chosen from. Raises
    ``ImageError`` for one that can't be opened.
    """
    hasher = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as opened:
                hasher.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise ImageError(f"{file}: {error.strerror}") from error
    kept = [str(file) for file in files]
    known = {label: number for number, label in enumerate(labels)}
    classes = np.array([known.get(file.parent.name, -1) for file in files], np.int64)
    return Dataset(
        "files",
        classes,
        lambda row: images.load_image(Path(kept[row]), bands),
        hasher.hexdigest(),
        files=tuple(among or files),
        bands=bands,
    )


@dataclass(frozen=True)
class Listing:
    """The image files of a folder by class folder; under "" in a flat one, ``classes`` False."""

    files: Mapping[str, list[Path]]
    classes: bool
    notes: tuple[str, ...]
    bands: int | None = None

    @property
    def every(self) -> list[Path]:
        """All files, by class."""
        return [file for files in self.files.values() for file in files]

    def readable(self) -> Listing:
        """Only the images that can be read, the others counted and named in the notes.

        Raises ``InputError`` if there are none.
        """
        kept, problems = unreadable.sort_out(self.every, self.bands)
        some = set(kept)
        files = {
            name: [file for file in files if file in some] for name, files in self.files.items()
        }
        left = {name: files for name, files in files.items() if files}
        if not left:
            raise InputError(f"none of the {len(problems)} images can be read: {problems[0]}")
        return replace(self, files=left, notes=(*self.notes, *unreadable.left_out(problems)))

    def sample(self, count: int) -> list[Path]:
        """``count`` of the files, or all if there are no more.

        As many of each class as there are, spread over its names, and the same ones every time,
        wherever the folder lies.
        """
        shuffled = [
            sorted(files, key=lambda file: hashlib.sha256(f"{name}/{file.name}".encode()).digest())
            for name, files in self.files.items()
        ]
        rounds = itertools.zip_longest(*shuffled)
        return [file for one in rounds for file in one if file is not None][:count]


def list_images(folder: Path, bands: int | None = None) -> Listing:
    """The images that lie in a folder or, if none do, in the folders in it, sorted by name.

    Hidden files and those that aren't images by their suffix are ignored, and counted in the
    notes. Raises ``InputError`` if there are none, or a folder can't be read.
    """
    flat, ignored = _image_files(folder, bands)
    found = {"": flat} if flat else {}
    if not flat:
        ignored = 0
        for entry in _entries(folder):
            if entry.name.startswith(".") or not _is_folder(entry):
                ignored += 1
                continue
            files, others = _image_files(entry, bands)
            ignored += others
            if files:
                found[entry.name] = files
    if not found:
        others = f"; {ignored} other entries are none" if ignored else ""
        raise InputError(f"{folder}: no images in it{others}")
    notes = (f"{folder}: {ignored} entries ignored: hidden or no image",) if ignored else ()
    return Listing(found, not flat, notes, bands)


def class_folders(
    folder: Path, labels: Sequence[str], skip_unreadable: bool = False, bands: int | None = None
) -> Dataset:
    """The images of ``folder/LABEL/FILE``; ``labels`` are the model's, in the order of its classes.

    Every header is read here, so that most of what could go wrong does before anything runs.
    Hidden files, files that aren't images by their suffix and whatever lies elsewhere are
    ignored, and counted in ``notes``; images that can't be read, too, with ``skip_unreadable``,
    which decodes all of them for that. Raises ``InputError`` for a folder that is no label or has
    no image at all, ``ImageError`` that names all images that can't be read.
    """
    found: dict[Path, int] = {}
    ignored = 0
    for entry in _entries(folder):
        if entry.name.startswith(".") or not _is_folder(entry):
            ignored += 1
            continue
        number = _class_of(entry, labels)
        listed, others = _image_files(entry, bands)
        ignored += others
        found |= dict.fromkeys(listed, number)
    if not found:
        others = f"; {ignored} other entries are none" if ignored else ""
        raise InputError(f"{folder}: no images in class folders{others}")
    files, problems = list(found), list[str]()
    if skip_unreadable:
        files, problems = unreadable.sort_out(files, bands)
    else:
        unreadable.check_headers(files, bands)
    if not files:
        raise InputError(f"{folder}: none of its {len(found)} images can be read")
    hasher = hashlib.sha256()
    for file in files:
        about = [file.parent.name, file.name, file.stat().st_size]
        hasher.update(json.dumps(about, allow_nan=False).encode())
    kept = [str(file) for file in files]
    notes = _notes(folder, {file.parent.name for file in files}, labels, ignored)
    return Dataset(
        str(folder),
        np.array([found[file] for file in files], np.int64),
        lambda row: images.load_image(Path(kept[row]), bands),
        hasher.hexdigest(),
        (*notes, *unreadable.left_out(problems)),
        tuple(files),
        bands,
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


def _image_files(folder: Path, bands: int | None) -> tuple[list[Path], int]:
    """The images in a folder, going by their names, and how many entries are something else."""
    suffixes = _suffixes() if bands is None else {images.ARRAY_SUFFIX}
    entries = _entries(folder)
    found = [
        file
        for file in entries
        if not file.name.startswith(".") and file.suffix.lower() in suffixes and not file.is_dir()
    ]
    return found, len(entries) - len(found)


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
