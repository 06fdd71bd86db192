"""What readings of a soak say, at looks that were fixed beforehand: pure arithmetic.

Whoever looks again and again until something shows will find it. So there are ``LOOKS``, and the
level of each is the whole one divided by their number (C. E. Bonferroni's inequality; for repeated
looks see C. Jennison and B. W. Turnbull, "Group Sequential Methods", 1999): what all of them
together claim is false no more often than the whole level says. And a claim counts once the next
look, whose readings are mostly new ones, makes it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ....runners.machine.usage import Usage
from ....runners.timing.measure import Measurement
from ...numerics import trends
from ..validity import MAX_DRIFT, MAX_OTHERS_PERCENT, MAX_STEAL_PERCENT
from .soak_result import LEAKS, STEADY, THROTTLES, UNDECIDED, Growth, Heat

# Shares of the time that was asked for.
LOOKS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
LEVEL = 0.01 / len(LOOKS)
# From here on a soak may end because nothing was found: heat takes its time.
STEADY_FROM = 1 / 2


@dataclass(frozen=True)
class Quantity:
    """What is watched. Nothing is said of growth up to ``least``: what is handed out at a time.

    What is steady grows by less than ``steady_below`` in 1,000 runs. That takes runs in which this
    makes at least ``resolution``, in which the quantity comes.
    """

    column: str
    unit: str
    least: float
    steady_below: float
    resolution: float


QUANTITIES = {
    "rss": Quantity("rss_mib", "MiB", least=1.0, steady_below=0.1, resolution=0.25),
    "threads": Quantity("threads", "", least=2.0, steady_below=1.0, resolution=1.0),
    "descriptors": Quantity("descriptors", "", least=2.0, steady_below=1.0, resolution=1.0),
}
# How far the clock has to fall before it explains anything.
CLOCK_FALLS = 0.95
NO_READING = "not readable there"
Column = tuple[float | None, ...]


@dataclass
class Readings:
    """One value a slice in each column: what was timed, and what the worker said after it."""

    after_s: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    throttled: list[int] = field(default_factory=list)
    steal_percent: list[float] = field(default_factory=list)
    others_percent: list[float] = field(default_factory=list)

    def add(self, after_s: float, measured: Measurement, usage: Usage) -> None:
        """Take in a slice, which ended so many seconds after the first one began."""
        # The timer runs the session once more, to have something to hold timed outputs against.
        made = len(measured.samples) + measured.warm_up_runs + 1
        self.after_s.append(after_s)
        self.runs.append(made + (self.runs[-1] if self.runs else 0))
        self.p50_ms.append(float(np.median(measured.samples)) / 1e6)
        self.usage.append(usage)
        self.throttled.append(measured.conditions.throttled)
        self.steal_percent.append(measured.conditions.steal_percent)
        self.others_percent.append(measured.conditions.others_percent)

    def columns(self) -> dict[str, Column]:
        """As the document has them."""
        held = [asdict(one) for one in self.usage]
        names = list(Usage.__dataclass_fields__)
        return {
            "after_s": tuple(round(one, 3) for one in self.after_s),
            "runs": tuple(self.runs),
            "p50_ms": tuple(self.p50_ms),
            **{name: tuple(one[name] for one in held) for name in names},
            "throttled": tuple(self.throttled),
            "steal_percent": tuple(self.steal_percent),
            "others_percent": tuple(self.others_percent),
        }


@dataclass(frozen=True)
class Look:
    """What the readings so far say. ``found`` are the quantities that this look makes a claim of.

    A claim that no earlier look made leaves the verdict of its row undecided.
    """

    growth: tuple[Growth, ...]
    heat: Heat
    found: frozenset[str]

    @property
    def verdict(self) -> str:
        """Of all rows together: a leak before heat before a doubt."""
        verdicts = {one.verdict for one in (*self.growth, self.heat)}
        order = (LEAKS, THROTTLES, UNDECIDED, STEADY)
        return next(one for one in order if one in verdicts)


def look(columns: Mapping[str, Column], before: frozenset[str] = frozenset()) -> Look:
    """Judge the columns of ``Readings``; ``before`` is what the look before this one ``found``."""
    found: set[str] = set()
    growth = []
    for quantity in QUANTITIES:
        row, claimed = _growth(quantity, columns, again=quantity in before)
        growth.append(row)
        found |= {quantity} if claimed else set()
    heat, claimed = _heat(columns, again=THROTTLES in before)
    found |= {THROTTLES} if claimed else set()
    return Look(tuple(growth), heat, frozenset(found))


def interference(columns: Mapping[str, Column]) -> list[str]:
    """What the machine did beside, on average over the soak."""
    notes = []
    for name, most, text in (
        ("steal_percent", MAX_STEAL_PERCENT, "of the CPU time was stolen by the host"),
        ("others_percent", MAX_OTHERS_PERCENT, "of the CPU time went to other processes"),
    ):
        mean = float(np.mean(_numbers(columns[name]))) if columns[name] else 0.0
        if mean > most:
            notes.append(f"{mean:.0f} % {text}: latency says little of the cell")
    return notes


def _growth(quantity: str, columns: Mapping[str, Column], *, again: bool) -> tuple[Growth, bool]:
    """A quantity's row, and whether it is found to leak, which counts the second time."""
    about = QUANTITIES[quantity]
    values, runs = columns[about.column], _numbers(columns["runs"])

    def row(verdict: str, reason: str | None, found: trends.Slope | None = None) -> Growth:
        known = [one for one in values if one is not None]
        ends = (found.low * 1e3, found.high * 1e3) if found else None
        per = found.value * 1e3 if found else None
        first = known[min(trends.settled(runs), len(known) - 1)] if known else None
        last = known[-1] if known else None
        return Growth(quantity, about.unit, verdict, per, ends, first, last, reason)

    if None in values:
        return row(UNDECIDED, NO_READING), False
    found = trends.slope(runs, _numbers(values), LEVEL)
    if found is None:
        return row(UNDECIDED, f"too few readings: {len(values)}"), False
    leaks = found.low * found.span > about.least and found.goes_on
    if leaks and again:
        return row(LEAKS, None, found), True
    if leaks:
        return row(UNDECIDED, "it grows; another look has to find that again", found), True
    allowed = about.steady_below / 1e3 * found.span
    if allowed < about.resolution:
        return row(UNDECIDED, _too_few_runs(about, runs), found), False
    # A leak worth the name would have grown by more than that over so many runs.
    told = allowed >= about.least and found.grown < about.least
    if told or found.high * 1e3 <= about.steady_below:
        return row(STEADY, None, found), False
    limit = f"{about.steady_below:g} per 1,000 runs"
    settles = found.low > 0 and not found.goes_on
    why = "it grew and is still settling" if settles else f"the interval reaches beyond {limit}"
    return row(UNDECIDED, why, found), False


def _too_few_runs(about: Quantity, runs: np.ndarray) -> str:
    needed = 1e3 * about.resolution / about.steady_below / (1 - trends.WARMING_UP)
    return f"too few runs to call it steady: {runs[-1]:,.0f}, about {needed:,.0f} would do"


def _heat(columns: Mapping[str, Column], *, again: bool) -> tuple[Heat, bool]:
    """Latency's row, and whether heat slowed it down: by the clock's or the CPU's own word."""
    after, clocks = _numbers(columns["after_s"]), columns["clock_mhz"]
    warm = [one for one in columns["temperature_c"] if one is not None]
    hottest = max(warm, default=None)
    p50_ms = _numbers(columns["p50_ms"])
    ratio, since = trends.end_ratio(after, p50_ms), trends.shift(after, p50_ms, 1 + MAX_DRIFT)
    throttled = int(sum(_numbers(columns["throttled"])))
    if ratio is None:
        reason = f"too few readings: {len(after)}"
        return Heat(UNDECIDED, None, None, None, hottest, throttled, reason), False
    fell = None if None in clocks else trends.end_ratio(after, _numbers(clocks))

    def row(verdict: str, reason: str | None) -> Heat:
        return Heat(verdict, ratio, since, fell, hottest, throttled, reason)

    if since is None and ratio <= 1 + MAX_DRIFT:
        return row(STEADY, None), False
    if since is None:
        return row(UNDECIDED, "slower at the end, but not throughout"), False
    cooler = fell is not None and fell <= CLOCK_FALLS
    said = sum(_numbers(columns["throttled"])[after >= since]) > 0
    if not (cooler or said):
        told = "the clock did not fall" if fell is not None else "the clock can't be read"
        why = f"slower, and {told}: what else the machine did, or heat that nothing here shows"
        return row(UNDECIDED, why), False
    if again:
        return row(THROTTLES, None), True
    return row(UNDECIDED, "slower and at a lower clock; another look has to find that again"), True


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if one is None else one for one in values], float)
