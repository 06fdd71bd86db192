"""Percentiles and spread of timing samples, and bounds of proportions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# How many samples a percentile needs before it means anything: the smallest counts that the
# binomial bound of MLPerf Inference's early stopping lets pass
# (https://github.com/mlcommons/inference_policies, inference_rules.adoc, "Early Stopping").
SAMPLES_NEEDED = {50: 1, 90: 64, 95: 130, 99: 662, 99.9: 6636}


def percentile(samples: np.ndarray, rank: float) -> float | None:
    """A percentile of 1-D samples, or ``None`` where there are too few to carry it.

    The nearest rank: a time that was measured, that ``rank`` per cent of them don't exceed. This
    is what the counts of ``SAMPLES_NEEDED`` are about; they take the samples to be independent,
    which those of one generation are not quite.
    """
    if len(samples) < SAMPLES_NEEDED[rank]:
        return None
    return float(np.percentile(samples, rank, method="inverted_cdf"))


def spread(figures: Sequence[float]) -> float:
    """How far the generations' figures lie apart: (largest - smallest) / median of them."""
    return float(np.ptp(figures) / np.median(figures))


def drift(samples: np.ndarray, center: Any = np.median) -> float:
    """The last third of one generation's samples against the first third, minus one."""
    third = len(samples) // 3
    if third == 0:
        return 0.0
    return float(center(samples[-third:]) / center(samples[:third]) - 1)


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
