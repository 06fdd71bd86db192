"""Are live images as those that the model was calibrated on? By how often each class comes first.

The population stability index compares two histograms ``a`` and ``e`` of shares:
``PSI = sum((a - e) * ln(a / e))``. Below 0.1 nothing has changed, from 0.25 on much has
(N. Siddiqi, "Credit Risk Scorecards", 2006): a rule of thumb that knows nothing of how many were
counted. Of two samples of ``n`` and ``m`` out of the same population it is about chi-squared with
``bins - 1`` degrees of freedom, times ``1/n + 1/m`` (B. Yurdakul, "Statistical Properties of
Population Stability Index", 2018): what is below that quantile may be chance. Drift is what is
above both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MODERATE, LARGE = 0.1, 0.25
STABLE, SHIFTED, DRIFTED, TOO_FEW = "stable", "shifted", "drifted", "too few to tell"
# One-sided 99 %, of the standard normal distribution.
Z = 2.3263478740408408
# A bin that holds fewer is no business of chi-squared (W. G. Cochran, 1954), on either side.
LEAST_IN_A_BIN = 5
LEAST_SHARE = 0.05
# An empty bin has no logarithm: as if half an image were in it.
OF_AN_EMPTY_BIN = 0.5


@dataclass(frozen=True)
class Drift:
    """How live first classes compare with the calibration's.

    ``psi`` and ``critical``, which chance stays below in 99 of 100 cases, are ``None`` while there
    are too few ``images`` (``needed`` would do). The verdict is "stable", "shifted" (above 0.1),
    "drifted" (above 0.25), both beyond chance, or "too few to tell".
    """

    verdict: str
    psi: float | None
    critical: float | None
    images: int
    needed: int
    bins: int


def bins_of(top1: Sequence[int]) -> list[slice]:
    """Neighbouring classes that make a bin: 5 % of the calibration's images, and five, or more.

    So there are 20 bins at most, however many classes; they are made of the calibration alone.
    """
    least = max(LEAST_IN_A_BIN, LEAST_SHARE * sum(top1))
    found: list[slice] = []
    start = count = 0
    for place, images in enumerate(top1):
        count += images
        if count >= least:
            found.append(slice(start, place + 1))
            start, count = place + 1, 0
    if found and start < len(top1):  # what is left over goes with the last one
        found[-1] = slice(found[-1].start, len(top1))
    return found


def drift(top1: Sequence[int], live: Sequence[int]) -> Drift:
    """Judge counts of first classes by those of the calibration, both with a place for each."""
    bins = bins_of(top1)
    expected = np.array([sum(top1[part]) for part in bins], float)
    found = np.array([sum(live[part]) for part in bins], float)
    images = int(found.sum())
    if len(bins) < 2:  # one class is all that the calibration knows
        return Drift(TOO_FEW, None, None, images, 0, len(bins))
    shares = expected / expected.sum()
    needed = math.ceil(LEAST_IN_A_BIN / float(shares.min()))
    if images < needed:
        return Drift(TOO_FEW, None, None, images, needed, len(bins))
    filled = np.maximum(found, OF_AN_EMPTY_BIN)
    now = filled / filled.sum()
    psi = float(np.sum((now - shares) * np.log(now / shares)))
    scale = 1 / images + 1 / float(expected.sum())
    critical = chi_squared(len(bins) - 1) * scale
    large = DRIFTED if psi > LARGE else SHIFTED if psi > MODERATE else STABLE
    verdict = large if psi > critical else STABLE
    return Drift(verdict, psi, critical, images, needed, len(bins))


def chi_squared(freedom: int) -> float:
    """The 99 % quantile, within 1 % (E. B. Wilson and M. M. Hilferty, 1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + Z * math.sqrt(spread)) ** 3
