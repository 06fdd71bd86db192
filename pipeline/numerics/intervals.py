"""Percentiles, intervals and ratios of timing samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import MissingLibrary

# How many samples a percentile needs before it means anything: the smallest counts that the
# binomial bound of MLPerf Inference's early stopping lets pass
# (https://github.com/mlcommons/inference_policies, inference_rules.adoc, "Early Stopping").
SAMPLES_NEEDED = {50: 1, 90: 64, 95: 130, 99: 662, 99.9: 6636}

# Fewer rounds than this give no interval worth the name.
MIN_ROUNDS = 5
CONFIDENCE = 0.95
RESAMPLES = 4000


def require() -> None:
    """Raise ``MissingLibrary`` where scipy is missing: better now than after the measuring."""
    _scipy_stats()


def percentile(samples: np.ndarray, rank: float) -> float | None:
    """A percentile of 1-D samples, or ``None`` where there are too few to carry it.

    The nearest rank: a time that was measured, that ``rank`` per cent of them don't exceed. This
    is what the counts of ``SAMPLES_NEEDED`` are about; they take the samples to be independent,
    which those of one round are not quite.
    """
    if len(samples) < SAMPLES_NEEDED[rank]:
        return None
    return float(np.percentile(samples, rank, method="inverted_cdf"))


def interval(figures: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of the rounds' figures, by bootstrap over the rounds.

    Samples within a round share its circumstances, so the rounds are the independent units.
    With few of them the plain percentile interval is too narrow; its level is raised so that it
    is as wide as Student's t would have it (Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69, 2015, section 4). One round gives no interval:
    its own figure comes back twice.
    """
    if len(figures) < 2:
        return figures[0], figures[0]
    return _bootstrap((np.asarray(figures),), _mean)


def ratio_interval(
    new: Sequence[float], old: Sequence[float], *, paired: bool
) -> tuple[float, float]:
    """95 % interval of new/old, of the rounds' figures; both need two rounds or more.

    ``paired``: the figures of one index were measured one right after the other, so that what
    slowed both down cancels out.
    """
    if not paired:
        return _bootstrap((np.asarray(new), np.asarray(old)), _ratio)
    ratios = np.log(np.asarray(new) / np.asarray(old))
    low, high = _bootstrap((ratios,), _mean)
    return math.exp(low), math.exp(high)


def paired_ratio(new: Sequence[float], old: Sequence[float]) -> float:
    """The geometric mean of the rounds' ratios new/old."""
    return float(np.exp(np.mean(np.log(np.asarray(new) / np.asarray(old)))))


def spread(figures: Sequence[float]) -> float:
    """How far the rounds' figures lie apart: (largest - smallest) / median of them."""
    return float(np.ptp(figures) / np.median(figures))


def drift(samples: np.ndarray, center: Any = np.median) -> float:
    """The last third of one round's samples against the first third, minus one."""
    third = len(samples) // 3
    if third == 0:
        return 0.0
    return float(center(samples[-third:]) / center(samples[:third]) - 1)


def _bootstrap(data: tuple[np.ndarray, ...], statistic: Any) -> tuple[float, float]:
    stats = _scipy_stats()
    rounds = min(map(len, data))
    wide = math.sqrt(rounds / (rounds - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, rounds - 1)
    if all(np.ptp(figures) == 0 for figures in data):  # nothing to resample, and scipy warns
        value = float(statistic(*data, axis=-1))
        return value, value
    found = stats.bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        confidence_level=1 - 2 * stats.norm.sf(wide),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _mean(figures: np.ndarray, axis: int) -> np.ndarray:
    return np.mean(figures, axis=axis)


def _ratio(new: np.ndarray, old: np.ndarray, axis: int) -> np.ndarray:
    return np.mean(new, axis=axis) / np.mean(old, axis=axis)


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[bench]"') from error
    return stats


# One-sided 95 %: a pass is a claim in one direction.
Z = 1.6448536269514722


MOST_SAMPLES_SUGGESTED = 1_000_000


def wilson(share: float, count: int, z: float = Z) -> tuple[float, float]:
    """Bounds of a proportion, each one-sided 95 % by default (Wilson 1927, score interval)."""
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return (centre - half) / scale, (centre + half) / scale


def samples_needed(share: float, limit: float) -> int | None:
    """The smallest number of samples that settles it at this share; ``None`` beyond a million."""
    side = 0 if share >= limit else 1

    def settled(count: int) -> bool:
        bound = wilson(share, count)[side]
        return bound >= limit if side == 0 else bound < limit

    return fewest(settled)


def fewest(settled: Callable[[int], bool]) -> int | None:
    """The smallest count for which ``settled``, and with it every larger one, is true."""
    low, high = 1, MOST_SAMPLES_SUGGESTED
    if not settled(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle + 1, high)
    return low
