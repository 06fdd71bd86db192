"""Is it slower than it was? A cell against the same one of an earlier bench, or of another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..numerics import intervals
from ..verdicts import FAIL, INCONCLUSIVE, PASS


@dataclass(frozen=True)
class Comparison:
    """New time for a run divided by the old one, with its 95 % interval.

    The verdict is "fail" if all of the interval is above ``1 + max_slowdown``, "pass" if none
    of it is, "inconclusive" otherwise or with a ``reason`` why the two can't be compared.
    """

    verdict: str
    max_slowdown: float
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    baseline_ms: float | None = None
    reason: str | None = None


def compare(
    new: Sequence[float], old: Sequence[float], max_slowdown: float, *, paired: bool
) -> Comparison:
    """Judge the figures (ms for a run) of rounds against those of another measurement.

    ``paired``: both were measured in the same rounds, one right after the other.
    """
    if min(len(new), len(old)) < intervals.MIN_ROUNDS:
        reason = f"too few rounds: {len(new)} against {len(old)}, {intervals.MIN_ROUNDS} needed"
        return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)
    mean_old = sum(old) / len(old)
    ratio = intervals.paired_ratio(new, old) if paired else sum(new) / len(new) / mean_old
    low, high = intervals.ratio_interval(new, old, paired=paired)
    limit = 1 + max_slowdown
    verdict = FAIL if low > limit else PASS if high <= limit else INCONCLUSIVE
    return Comparison(verdict, max_slowdown, ratio, (low, high), mean_old)
