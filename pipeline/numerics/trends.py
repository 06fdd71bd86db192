"""Does a quantity grow? Its slope with an interval that steps and slow wandering don't deceive.

What a process holds comes in steps that stay (an arena, a pool) and wanders, so that a line fitted
through its readings has residuals that depend on each other, and an interval far too narrow. Here
readings are gathered in blocks, and what counts are the increments from each block to the next: of
a random walk with drift they are independent and the drift is their mean (J. D. Hamilton, "Time
Series Analysis", 1994, chapter 15). One step is one increment, which widens the interval as much
as it moves the mean; noise that doesn't stay makes increments alternate, and the interval too wide,
never too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ratios import students_quantile

# What is left out in front: whatever is loaded, cached or pooled when first used is no leak.
WARMING_UP = 0.25
BLOCKS = 16
QUARTER = BLOCKS // 4
# Of growth that goes on the second half is like the first; what only settles slows down.
LEAST_GOING_ON = 0.75


@dataclass(frozen=True)
class Slope:
    """How a quantity grows, for each unit of what it is held against, with its interval's ends.

    ``grown`` is what it grew by over ``span`` of those units. ``goes_on`` says whether the
    second half of the span grew, and as fast as the first one within a quarter or by all that can
    be told: what doesn't is still settling.
    """

    value: float
    low: float
    high: float
    span: float
    goes_on: bool

    @property
    def grown(self) -> float:
        """The slope over its span."""
        return self.value * self.span


def settled(at: Sequence[float] | np.ndarray) -> int:
    """The first of some readings that counts: after ``WARMING_UP`` of what they are held against.

    ``at`` is ascending: runs or seconds since the beginning.
    """
    places = np.asarray(at, float)
    return int(np.searchsorted(places, WARMING_UP * places[-1])) if len(places) else 0


def slope(at: np.ndarray, values: np.ndarray, level: float) -> Slope | None:
    """The growth of ``values`` over ``at``, both ``[N]``, ``at`` ascending; without warming up.

    ``level`` is how often the true slope may be above, or below, the interval (each side). ``None``
    for fewer than two readings a block.
    """
    found = _blocks(at, values)
    if found is None:
        return None
    parts, levels = found
    places = np.array([np.median(part) for part in parts])
    steps, widths = np.diff(levels), np.diff(places)
    width = float(widths.mean())
    # Blocks may be of unequal width, as runs take longer: growth is by runs.
    rates = steps / widths
    count = len(rates)
    error = float(np.std(rates, ddof=1)) / math.sqrt(count)
    half = students_quantile(1 - level, count - 1) * error
    value = float(rates.mean())
    return Slope(value, value - half, value + half, width * count, _goes_on(rates))


def _goes_on(rates: np.ndarray) -> bool:
    """Whether the second half grows as the first: nearly as fast, or told apart by chance alone."""
    middle = len(rates) // 2
    early, late = rates[:middle], rates[-middle:]
    errors = [float(np.var(part, ddof=1)) / middle for part in (early, late)]
    quantile = students_quantile(0.95, middle - 1)
    lost = float(early.mean() - late.mean())
    grows = float(late.mean()) > quantile * math.sqrt(errors[1])
    near = float(late.mean()) >= LEAST_GOING_ON * float(early.mean())
    return grows and (near or lost < quantile * math.sqrt(sum(errors)))


def end_ratio(at: np.ndarray, values: np.ndarray) -> float | None:
    """The last quarter of some positive ``values`` (``[N]``) over the first after warming up.

    Both by the medians of their blocks; ``None`` for fewer than two readings a block.
    """
    found = _blocks(at, values)
    if found is None:
        return None
    _, levels = found
    return float(np.median(levels[-QUARTER:]) / np.median(levels[:QUARTER]))


def shift(at: np.ndarray, values: np.ndarray, least: float) -> float | None:
    """Where ``values`` (``[N]``, positive) went up to ``least`` times as much, and stayed there.

    They have if each block of the last quarter is above ``least`` times the first one after warming
    up: at the first block after which all are above half the way. ``None`` if they have not.
    """
    found = _blocks(at, values)
    if found is None:
        return None
    parts, levels = found
    before, after = float(np.median(levels[:QUARTER])), levels[-QUARTER:]
    if not np.all(after > least * before):
        return None
    half_way = (before + float(np.median(after))) / 2
    below = np.flatnonzero(levels[:-QUARTER] <= half_way)
    return float(parts[int(below[-1]) + 1 if len(below) else 0][0])


def _blocks(at: np.ndarray, values: np.ndarray) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Where the readings of each block are, and their median, without warming up."""
    first = settled(at)
    if len(at) - first < 2 * BLOCKS:
        return None
    places = np.array_split(np.asarray(at, float)[first:], BLOCKS)
    parts = np.array_split(np.asarray(values, float)[first:], BLOCKS)
    return places, np.array([np.median(part) for part in parts])
