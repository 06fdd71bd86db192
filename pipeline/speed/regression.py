"""Is it slower than it was? A cell against the same one of an earlier bench, or of another run."""

from __future__ import annotations

from dataclasses import dataclass

from ..numerics.ratios import FEWEST, Ratio
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
    ratio: Ratio | None, generations: int, max_slowdown: float, baseline_ms: float
) -> Comparison:
    """Judge new/old, as so many generations have it."""
    if ratio is None or generations < FEWEST:
        reason = f"too few generations: {generations}, {FEWEST} needed"
        return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)
    limit = 1 + max_slowdown
    verdict = FAIL if ratio.low > limit else PASS if ratio.high <= limit else INCONCLUSIVE
    return Comparison(verdict, max_slowdown, ratio.value, ratio.ci95, baseline_ms)
