"""What calibration keeps of a tensor: a histogram whose memory doesn't grow with the images.

Bins are as wide as a power of two and zero is an edge, so that a histogram that gets a larger value
merges its bins two by two: nothing is counted anew, and the result depends neither on the order of
the images nor on how they were batched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from ...runners.bundles import npz
from ..storage.goldens import packed

# Half of them below zero. Of a tensor that is never negative at least a quarter is used: sixteen
# bins or more for each of int8's 255 steps but for the widest, where it is eight.
BINS = 8192
# Values of one image that a large tensor is counted by: evenly spread, and others in each image.
MOST_VALUES = 1 << 14
# What is compared with the end to see whether more images would move a range.
SETTLED_BY = 0.75
MOST_EXPONENT = 100
NOT_FINITE = "NaN or infinite"


@dataclass(frozen=True)
class Histogram:
    """``counts`` are int64 ``[BINS]`` of bins ``2**exponent`` wide around zero.

    ``low`` and ``high`` are the smallest and the largest value, of all and not only of those
    counted.
    """

    counts: np.ndarray
    exponent: int
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, low: float, high: float) -> Self:
        """Of some values between the two ends."""
        most = max(-low, high, np.finfo(np.float32).tiny)
        exponent = int(np.floor(np.log2(most))) + 2 - int(np.log2(BINS))
        if abs(exponent) > MOST_EXPONENT:  # where float32 has no such factor
            values = values.astype(np.float64)
        # A power of two changes no digit: an edge belongs to the bin above it, whatever the width.
        places = np.floor(values * values.dtype.type(2.0**-exponent)).astype(np.intp)
        counts = np.bincount(np.clip(places + BINS // 2, 0, BINS - 1), minlength=BINS)
        return cls(counts, exponent, low, high)

    def plus(self, other: Self) -> Self:
        """Both together, in the wider bins."""
        exponent = max(self.exponent, other.exponent)
        counts = self.at(exponent).counts + other.at(exponent).counts
        return replace(
            self,
            counts=counts,
            exponent=exponent,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    def at(self, exponent: int) -> Self:
        """The same in bins of that width, not narrower than its own."""
        counts = self.counts
        for _ in range(min(exponent - self.exponent, BINS.bit_length())):
            merged = counts.reshape(-1, 2).sum(1)
            counts = np.zeros(BINS, np.int64)
            counts[BINS // 4 : -BINS // 4] = merged
        return replace(self, counts=counts, exponent=exponent)

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin, float64."""
        return np.ldexp(np.arange(BINS) - BINS // 2 + 0.5, self.exponent)

    @property
    def edges(self) -> np.ndarray:
        """Where each bin begins, and the last one ends, float64 ``[BINS + 1]``."""
        return np.ldexp(np.arange(BINS + 1.0) - BINS // 2, self.exponent)


@dataclass
class Collector:
    """Takes in batch after batch. ``earlier`` is what there was after three quarters of them."""

    images: int
    seen: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)
    earlier: dict[str, Histogram] | None = None
    top1: np.ndarray | None = None

    def score(self, scores: np.ndarray | None, count: int) -> None:
        """The classes of a batch, ``[count or more, classes]``; nothing else is counted."""
        if scores is None or scores.ndim != 2 or scores.shape[1] < 2:
            return
        found = np.bincount(scores[:count].argmax(axis=1), minlength=scores.shape[1])
        self.top1 = found if self.top1 is None else self.top1 + found

    def take(self, tensors: Mapping[str, np.ndarray], count: int) -> None:
        """A batch of ``count`` images: float32 arrays by tensor. Raises ``ValueError`` for NaN."""
        for name, array in tensors.items():
            if not array.size:
                continue
            low, high = float(array.min()), float(array.max())
            if not np.isfinite([low, high]).all():
                raise ValueError(f"{name} is {NOT_FINITE}")
            flat = array.reshape(-1)
            step = -(-flat.size // (MOST_VALUES * max(1, count)))
            found = Histogram.of(flat[self.seen % step :: step], low, high)
            before = self.histograms.get(name)
            self.histograms[name] = before.plus(found) if before else found
        self.seen += count
        if self.earlier is None and self.seen >= SETTLED_BY * self.images:
            self.earlier = dict(self.histograms)

    def done(self) -> Calibrated:
        """What was collected."""
        return Calibrated(self.histograms, self.earlier or {}, self.seen, self.top1)


@dataclass(frozen=True)
class Calibrated:
    """The histograms of a model's tensors, of all ``images`` and of the first three quarters.

    ``top1`` says of how many images each class was the first, int64 ``[classes]``; ``None`` of what
    has no classes.
    """

    histograms: Mapping[str, Histogram]
    earlier: Mapping[str, Histogram]
    images: int
    top1: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        """As a compressed ``.npz``; the same histograms give the same bytes."""
        arrays = {"images": np.array(self.images)}
        for kind, found in (("all", self.histograms), ("earlier", self.earlier)):
            names = sorted(found)
            some = [found[name] for name in names]
            arrays[f"{kind}.names"] = np.array(names)
            arrays[f"{kind}.counts"] = np.array([one.counts for one in some], np.int64)
            arrays[f"{kind}.exponents"] = np.array([one.exponent for one in some], np.int64)
            arrays[f"{kind}.ends"] = np.array([(one.low, one.high) for one in some])
        if self.top1 is not None:
            arrays["top1"] = self.top1.astype(np.int64)
        return packed(arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``to_bytes`` wrote. Raises ``ValueError`` or ``KeyError`` for another file."""
        arrays = npz.read(path)
        every: list[dict[str, Histogram]] = []
        for kind in ("all", "earlier"):
            rows = zip(
                arrays[f"{kind}.names"].tolist(),
                arrays[f"{kind}.counts"],
                arrays[f"{kind}.exponents"].tolist(),
                arrays[f"{kind}.ends"].tolist(),
                strict=True,
            )
            every.append({name: Histogram(counts, at, *ends) for name, counts, at, ends in rows})
        return cls(*every, images=int(arrays["images"]), top1=arrays.get("top1"))
