"""``.npz`` archives that somebody handed over: bounded before anything is allocated for them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

# What an archive may unpack to: this much, or this many times its own size where that is more.
MOST_BYTES, MOST_RATIO = 1 << 30, 20
MOST_ARRAYS = 10_000
SUFFIX = ".npy"
# Figures, truth values and text; no objects, records or times.
KINDS = "biufU"


def read(path: Path, wanted: Callable[[str], bool] = lambda _name: True) -> dict[str, np.ndarray]:
    """The arrays of an archive by name.

    Raises ``OSError`` where the file can't be opened, ``ValueError`` for whatever is wrong in it.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        try:
            with zipfile.ZipFile(file) as archive:
                _check(archive, max(MOST_BYTES, MOST_RATIO * size))
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files if wanted(name)}
        except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
            raise ValueError(str(error) or type(error).__name__) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in KINDS:
            raise ValueError(f"{name} holds no figures")
    return found


def outputs(arrays: dict[str, np.ndarray], count: int | None = None) -> int:
    """How many rows all of some arrays have; ``ValueError`` unless it is ``count`` of figures."""
    for name, array in arrays.items():
        if not array.ndim or array.dtype.kind not in "biuf":
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
        count = len(array) if count is None else count
        if len(array) != count:
            raise ValueError(f"{name} has {len(array)} samples, others have {count}")
    if not count:
        raise ValueError("no samples")
    return count


def _check(archive: zipfile.ZipFile, most: int) -> None:
    entries = archive.infolist()
    if len(entries) > MOST_ARRAYS or sum(entry.file_size for entry in entries) > most:
        raise ValueError("it would unpack to far more than it is")
    for entry in entries:
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
            needed = dtype.itemsize
            for length in shape:
                needed *= length
            if min(shape, default=0) < 0 or needed > entry.file_size:
                raise ValueError(f"{entry.filename} is said to be {dtype} {list(shape)[:8]}")
