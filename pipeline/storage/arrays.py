"""Inputs that are no images: what a user says of them, and seeded random values that fit.

    NAME:SHAPE[:DTYPE[:LOW..HIGH]]      tokens:1x16:int64:0..30521

The first dimension is the batch. A name with a dot is of a tensor in a dict, ``batch.tokens``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ...runners.bundles import npz
from ...runners.images import batches
from ..errors import InputError

DTYPES = ("float32", "int64", "int32", "uint8", "bool")
FORM = "NAME:SHAPE[:DTYPE[:LOW..HIGH]], such as tokens:1x16:int64:0..30521"
SHAPE = re.compile(r"(1|N)(x[1-9]\d*)*")
MOST_VALUES = 1 << 28


@dataclass(frozen=True)
class ArrayInput:
    """One input: ``shape`` is a sample's, without the batch.

    Values are in [low, high], both included; without limits a float is standard normal.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what a user writes. Raises ``ValueError`` that says what is wrong with it."""
        if re.search(r"[\s,=]", text):
            raise ValueError(f"an input is {FORM}")
        return cls.read(text)

    @classmethod
    def read(cls, text: str) -> Self:
        """From what ``str`` gave: the names in a file may have spaces. Raises as ``parse``."""
        name, shape, dtype, limits = _parts(text)
        dtype = dtype or "float32"
        if not name:
            raise ValueError(f"an input is {FORM}")
        if not SHAPE.fullmatch(shape):
            raise ValueError(f"the shape of {name} is to start with the batch, 1x3x224x224")
        if dtype not in DTYPES:
            raise ValueError(f"{name} is one of {', '.join(DTYPES)}, not {dtype}")
        low, high = _limits(name, limits)
        if low is None and dtype not in ("float32", "bool"):
            raise ValueError(f"which values can {name} have? {name}:{shape}:{dtype}:LOW..HIGH")
        sizes = tuple(int(size) for size in shape.split("x")[1:])
        if np.prod(sizes, dtype=float) > MOST_VALUES:
            raise ValueError(f"{name} has over {MOST_VALUES} values")
        return cls(name, sizes, dtype, low, high)

    def __str__(self) -> str:
        """As ``read`` takes it."""
        sides = "x".join(map(str, ("N", *self.shape)))
        limits = "" if self.low is None else f":{self.low:.12g}..{self.high:.12g}"
        return f"{self.name}:{sides}:{self.dtype}{limits}"

    def random(self, count: int, seed: int) -> np.ndarray:
        """``[count, *shape]``; the same values for the same seed."""
        random = np.random.default_rng(seed)
        shape = (count, *self.shape)
        if self.dtype == "bool":
            return random.integers(0, 2, shape).astype(bool)
        if self.low is None or self.high is None:
            return random.standard_normal(shape, np.float32)
        if self.dtype == "float32":
            return random.uniform(self.low, self.high, shape).astype(np.float32)
        return random.integers(int(self.low), int(self.high) + 1, shape).astype(self.dtype)


@dataclass(frozen=True)
class Arrays:
    """Values for every input, name -> ``[N, ...]``."""

    values: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def digest(self) -> str:
        """SHA-256 of the values."""
        hasher = hashlib.sha256()
        for name, array in self.values.items():
            hasher.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return hasher.hexdigest()

    @classmethod
    def random(cls, inputs: tuple[ArrayInput, ...], count: int, seed: int) -> Self:
        """Random values for every input, each from a seed of its own."""
        return cls({one.name: one.random(count, seed + place) for place, one in enumerate(inputs)})

    @classmethod
    def load(cls, path: Path, inputs: tuple[ArrayInput, ...], most: int | None = None) -> Self:
        """The first ``most`` samples, or all, of an ``.npz`` that holds every input by name.

        Raises ``InputError`` for anything else.
        """
        try:
            found = npz.read(path, {one.name for one in inputs}.__contains__)
            values = {one.name: found[one.name][:most] for one in inputs}
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, IndexError) as error:
            raise InputError(f"{path}: not an .npz of the inputs by name ({error})") from error
        counts = {len(array) if array.ndim else 0 for array in values.values()}
        for one in inputs:
            array = values[one.name]
            if (array.shape[1:], array.dtype.name) != (one.shape, one.dtype):
                raise InputError(
                    f"{path}: {one.name} is {array.dtype} {list(array.shape)}, "
                    f"{one.dtype} [N, {', '.join(map(str, one.shape))}] expected"
                )
        if len(counts) != 1 or counts == {0}:
            raise InputError(f"{path}: its arrays are to hold equally many samples, 1 or more")
        return cls(values)

    def part(self, start: int, count: int) -> Self:
        """Up to ``count`` samples from one on."""
        rows = slice(start, start + count)
        return type(self)({name: array[rows] for name, array in self.values.items()})

    def batches(self, batch: int) -> Iterator[tuple[dict[str, np.ndarray], slice, int]]:
        """Yield ``(feeds, rows, valid)``, as ``images.batches`` cuts them."""
        cut = {name: batches(array, batch) for name, array in self.values.items()}
        for parts in zip(*cut.values(), strict=True):
            feeds = {name: part for name, (part, _, _) in zip(cut, parts, strict=True)}
            yield feeds, *parts[0][1:]


def _parts(text: str) -> tuple[str, str, str, str]:
    """Name, shape, type and limits. An ONNX file's names may have colons in them: "x:0"."""
    parts = text.split(":")
    shapes = [place for place, part in enumerate(parts) if place and SHAPE.fullmatch(part)]
    end = shapes[0] if shapes else 1
    shape, dtype, limits, *more = (*parts[end:], "", "", "")
    return ("", "", "", "") if any(more) else (":".join(parts[:end]), shape, dtype, limits)


def _limits(name: str, text: str) -> tuple[float | None, float | None]:
    if not text:
        return None, None
    low, dots, high = text.partition("..")
    try:
        limits = float(low), float(high)
    except ValueError:
        dots = ""
        limits = 0.0, 0.0
    if not dots or not -np.inf < limits[0] <= limits[1] < np.inf:
        raise ValueError(f"the values of {name} are LOW..HIGH, not {text}")
    return limits
