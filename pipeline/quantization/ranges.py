"""Which part of its values a tensor's 256 steps are spread over: each method is a function.

They take a histogram and give the ends of the range, which always holds zero, as zero has to be
a step for padding and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .histograms import BINS, Calibrated, Histogram

STEPS = 255
PERCENTILE = 99.999
# Ends of ranges that are tried, evenly spread between the tensor's own end and zero.
ENDS = 256
# Bins of a distribution that entropy compares with, and how many thresholds it tries.
COARSE, THRESHOLDS = 2048, 120
# A range that moves by more of its width in the last quarter of the images isn't settled.
SETTLED = 0.01

Range = tuple[float, float]


def min_max(found: Histogram) -> Range:
    """All values that were seen."""
    return min(found.low, 0.0), max(found.high, 0.0)


def percentile(found: Histogram, share: float = PERCENTILE) -> Range:
    """All but the outermost: ``share`` of a hundred are between the ends."""
    low, high = min_max(found)
    below = np.cumsum(found.counts) / max(1, found.counts.sum())
    left = (1 - share / 100) / 2 if low < 0 < high else 1 - share / 100
    edges = found.edges
    lower = edges[int(np.searchsorted(below, left, side="right"))]
    upper = edges[int(np.searchsorted(below, 1 - left)) + 1]
    return max(low, min(float(lower), 0.0)), min(high, max(float(upper), 0.0))


def least_squares(found: Histogram) -> Range:
    """The range whose rounding and clipping together have the least squared error.

    A value within the range is off by a twelfth of a squared step on average (W. R. Bennett,
    "Spectra of Quantized Signals", Bell System Technical Journal 27, 1948), one that is exactly
    zero by nothing, and one beyond by its distance from the end.
    """
    low, high = min_max(found)
    if low == high:
        return low, high
    parts = 1 - np.arange(ENDS) / ENDS
    lows = low * parts if low < 0 else np.zeros(1)
    highs = high * parts if high > 0 else np.zeros(1)
    values, counts = found.centers, found.counts.astype(np.float64)
    clipped_above = _beyond(values, counts, highs)
    clipped_below = _beyond(-values[::-1], counts[::-1], -lows)
    # Most zeros are those that an activation has cut off.
    rounded = counts.sum() - counts[BINS // 2]
    steps = (highs[None, :] - lows[:, None]) / STEPS
    errors = rounded * steps**2 / 12 + clipped_below[:, None] + clipped_above[None, :]
    at_low, at_high = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return float(lows[at_low]), float(highs[at_high])


def entropy(found: Histogram) -> Range:
    """The range that tells most of the distribution: least Kullback-Leibler divergence.

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017: what is beyond a threshold is counted at
    it, what is within is spread over the steps. Symmetric about zero where there are both signs.
    """
    low, high = min_max(found)
    half = BINS // 2
    size = found.counts[half:].astype(np.float64)
    if low < 0:
        size = size + found.counts[:half][::-1]
    size[0] = 0.0  # what an activation cut off: it is exact in any range
    used = int(np.flatnonzero(size)[-1]) + 1 if size.any() else 0
    steps = STEPS if high == 0 or low == 0 else STEPS // 2
    if used <= steps:
        return low, high
    width = -(-used // COARSE)
    size = np.pad(size[:used], (0, -used % width)).reshape(-1, width).sum(1)
    tried = np.unique(np.linspace(steps, len(size), THRESHOLDS).astype(int))
    divergences = [_divergence(size, int(length), steps) for length in tried]
    end = float(np.ldexp(tried[int(np.argmin(divergences))] * width, found.exponent))
    return max(low, -end), min(high, end)


METHODS: Mapping[str, Callable[[Histogram], Range]] = {
    "min-max": min_max,
    "percentile": percentile,
    "least-squares": least_squares,
    "entropy": entropy,
}


def choose(calibrated: Calibrated, method: str) -> dict[str, Range]:
    """The range of every tensor by one of ``METHODS``."""
    return {name: METHODS[method](found) for name, found in calibrated.histograms.items()}


def unsettled(calibrated: Calibrated, method: str) -> tuple[dict[str, float], int]:
    """Ranges that the last quarter of the images moved, by how much, and how many images would do.

    A range's move is in parts of its width. What is left to move was taken to fall as one over
    the number of images, as it does for means and for the chance of a new extreme value.
    """
    moved: dict[str, float] = {}
    for name, found in calibrated.histograms.items():
        earlier = calibrated.earlier.get(name)
        if earlier is None:
            continue
        (low, high), (was_low, was_high) = METHODS[method](found), METHODS[method](earlier)
        width = high - low
        moves = max(abs(low - was_low), abs(high - was_high)) / width if width else 0.0
        if moves > SETTLED:
            moved[name] = moves
    most = max(moved.values(), default=0.0)
    return moved, int(np.ceil(calibrated.images * most / SETTLED)) if moved else calibrated.images


def _beyond(values: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The sum of squared distances of ascending values above each of some ends."""
    above = [np.append(np.cumsum((counts * values**power)[::-1])[::-1], 0.0) for power in (0, 1, 2)]
    first = np.searchsorted(values, ends, side="right")
    count, total, squares = (sums[first] for sums in above)
    return np.maximum(squares - 2 * ends * total + ends**2 * count, 0.0)


def _divergence(size: np.ndarray, length: int, steps: int) -> float:
    """Of the distribution clipped to ``length`` bins from what ``steps`` steps tell of it."""
    clipped = size[:length].copy()
    clipped[-1] += size[length:].sum()
    step = np.minimum(np.arange(length) * steps // length, steps - 1)
    present = size[:length] > 0
    totals = np.bincount(step, size[:length], steps)
    filled = np.bincount(step, present, steps)
    told = np.where(present, totals[step] / np.maximum(filled[step], 1), 0.0)
    both = (clipped > 0) & (told > 0)
    if not both.any():
        return np.inf
    p, q = clipped / clipped.sum(), told / max(told.sum(), np.finfo(float).tiny)
    # What the steps tell nothing of counts as told with the smallest chance there is.
    least = np.finfo(float).eps
    known = clipped > 0
    return float(np.sum(p[known] * np.log(p[known] / np.maximum(q[known], least))))
