"""Percentiles, intervals and validity of timing samples (pure numpy)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# How many samples a percentile needs before it means anything: the smallest counts that the
# binomial bound of MLPerf Inference's early stopping lets pass
# (https://github.com/mlcommons/inference_policies, inference_rules.adoc, "Early Stopping").
SAMPLES_NEEDED = {50: 1, 90: 64, 95: 130, 99: 662, 99.9: 6636}

# Student's t, two-sided 95 %, by degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_95 = 1.96


def percentile(samples: np.ndarray, rank: float) -> float | None:
    """A percentile of 1-D samples, or ``None`` where there are too few to carry it."""
    if len(samples) < SAMPLES_NEEDED[rank]:
        return None
    return float(np.percentile(samples, rank))


def median_interval(rounds: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the median over all rounds' samples.

    Samples within a round share its circumstances, so the rounds are the independent units:
    the half-width is Student's t times the standard error of the rounds' medians. With one
    round there is only the spread inside it, and the order statistics of the median are used
    (binomial; Conover, "Practical Nonparametric Statistics", 3.2), which is too narrow for a
    claim about another run.
    """
    pooled = np.concatenate(rounds)
    middle = float(np.median(pooled))
    if len(rounds) == 1:
        ordered = np.sort(pooled)
        half = NORMAL_95 * np.sqrt(len(ordered)) / 2
        low = max(0, int(np.floor(len(ordered) / 2 - half)))
        high = min(len(ordered) - 1, int(np.ceil(len(ordered) / 2 + half)))
        return float(ordered[low]), float(ordered[high])
    medians = np.array([np.median(samples) for samples in rounds])
    degrees = len(rounds) - 1
    t = T_95[degrees - 1] if degrees <= len(T_95) else NORMAL_95
    half = t * float(medians.std(ddof=1)) / np.sqrt(len(rounds))
    return max(0.0, middle - half), middle + half


def round_spread(rounds: Sequence[np.ndarray]) -> float:
    """How far the rounds' medians lie apart: (largest - smallest) / median of them."""
    medians = np.array([np.median(samples) for samples in rounds])
    return float(np.ptp(medians) / np.median(medians))


def drift(samples: np.ndarray) -> float:
    """Median of the last third of one round's samples against the first third, minus one."""
    third = len(samples) // 3
    if third == 0:
        return 0.0
    return float(np.median(samples[-third:]) / np.median(samples[:third]) - 1)
