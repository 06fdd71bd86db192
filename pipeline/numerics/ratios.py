"""How much faster one thing is than another that took turns with it, and how sure that is.

The unit is a generation of fresh processes: within one, times share the luck of where its threads
and its memory came to lie, so that only the spread between generations says what the next one
would bring. All is done with logarithms, where a ratio and its inverse are the same distance from
no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MissingLibrary

CONFIDENCE = 0.95
# Of fewer generations no verdict is drawn.
FEWEST = 3
# What nobody would choose by: within this the two count as equally fast.
MARGIN = 0.05

FASTER, SLOWER, SAME, UNDECIDED = "faster", "slower", "same", "undecided"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two times, or a time, with the ends of its 95 % interval.

    ``generations`` is how many it was found in: of two measurements, in the shorter one.
    """

    value: float
    low: float
    high: float
    generations: int

    @property
    def inverse(self) -> Ratio:
        """The same of the two the other way round."""
        low, high = 1 / self.high, 1 / self.low if self.low else math.inf
        return Ratio(1 / self.value, low, high, self.generations)

    def scaled(self, factor: float) -> Ratio:
        """The same, so many times as large."""
        return Ratio(factor * self.value, factor * self.low, factor * self.high, self.generations)

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The interval, ``None`` where a single generation gives none."""
        return (self.low, self.high) if math.isfinite(self.high) else None


def require() -> None:
    """Raise ``MissingLibrary`` where scipy is missing: better now than after the measuring."""
    _scipy_stats()


def of_cycles(new: np.ndarray, old: np.ndarray) -> float:
    """A generation's log ratio: the median over the cycles in which both had a turn (else NaN)."""
    return float(np.nanmedian(np.log(new / old)))


def over_generations(logs: Sequence[float], least: float = 0.0) -> Ratio:
    """The geometric mean of the generations with its interval.

    The interval is Student's, since generations are few, independent and their number is fixed
    beforehand (to stop once it looks narrow would cost coverage). ``least`` is half of its width
    at least, in logarithms: see ``half_width_of``.
    """
    return _ratio(float(np.mean(logs)), max(_half(logs), least), len(logs))


def half_width_of(control: Sequence[float]) -> float:
    """What a pair shows whose true ratio is one: half of an interval that no other may undercut.

    That is the pair's own interval, or its distance from one where that is more.
    """
    return max(_half(control), abs(float(np.mean(control)))) if len(control) > 1 else 0.0


def compare(new: Sequence[float], old: Sequence[float], moves: float) -> Ratio:
    """new/old of the log figures of generations that were not measured together.

    Welch's interval (B. L. Welch, "The generalization of 'Student's' problem when several
    different population variances are involved", Biometrika 34, 1947), widened by ``moves``: how
    far the quantity is known to move between two measurements, in logarithms.
    """
    mean = float(np.mean(new) - np.mean(old))
    of_new, of_old = (float(np.var(logs, ddof=1)) / len(logs) for logs in (new, old))
    variance = of_new + of_old
    half = moves
    if variance:
        freedom = variance**2 / (of_new**2 / (len(new) - 1) + of_old**2 / (len(old) - 1))
        half += students_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance)
    return _ratio(mean, half, min(len(new), len(old)))


def verdict(speedup: Ratio, margin: float = MARGIN) -> str:
    """How fast something is against its reference: "faster", "slower", "same" or "undecided".

    ``speedup`` is the reference's time divided by its own. It is the same if all of the interval
    is within the ``margin`` of one, and faster or slower if none of it is on the other side of one.
    """
    if speedup.generations < FEWEST:
        return UNDECIDED
    if 1 - margin <= speedup.low and speedup.high <= 1 + margin:
        return SAME
    return FASTER if speedup.low > 1 else SLOWER if speedup.high < 1 else UNDECIDED


def students_quantile(share: float, freedom: float) -> float:
    """What Student's t with so many degrees of freedom is below in that share of cases."""
    return float(_scipy_stats().t.ppf(share, freedom))


def _ratio(mean: float, half: float, generations: int) -> Ratio:
    """Of logarithms: nothing is known of the interval where ``half`` is infinite."""
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), generations)


def _half(logs: Sequence[float]) -> float:
    """Half of Student's interval of the mean; infinite for a single figure."""
    if len(logs) < 2:
        return math.inf
    quantile = students_quantile((1 + CONFIDENCE) / 2, len(logs) - 1)
    return quantile * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[bench]"') from error
    return stats
