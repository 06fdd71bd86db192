"""What a soak found: how each quantity grows, how latency ends, and one verdict of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...cells.row import CellRow
from ...errors import ExitCode
from ...storage.document import Result

STEADY, LEAKS, THROTTLES, UNDECIDED = "steady", "leaks", "throttles", "undecided"
WRONG = "wrong"
# How a soak came to its end.
RUNNING, BY_TIME, BY_VERDICT, BY_WORKER = "running", "time", "verdict", "worker"


@dataclass(frozen=True, kw_only=True)
class SoakedCell(CellRow):
    """The cell. ``chosen`` says why it is this one, where several could have been it."""

    batch: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    chosen: str = ""


@dataclass(frozen=True)
class Growth:
    """How one quantity of the process grows: "rss" (MiB), "threads" or "descriptors".

    ``per_1000_runs`` with its interval is after warming up, ``None`` with too few readings. The
    interval holds at all looks together, see ``looks.LEVEL``. ``first`` is the reading after
    warming up, ``last`` the last one.
    """

    quantity: str
    unit: str
    verdict: str
    per_1000_runs: float | None
    interval: tuple[float, float] | None
    first: float | None
    last: float | None
    reason: str | None


@dataclass(frozen=True)
class Heat:
    """How latency ends, beside what tells whether heat did it.

    ``ratio`` is the p50 of the end divided by that of the beginning, ``after_s`` is when it went
    up, ``None`` unless it stayed up; ``clock_ratio`` compares the clock in the same way, ``None``
    where it can't be read. ``hottest_c`` is the highest temperature read, ``throttled`` is how
    often a CPU said that it slowed down.
    """

    verdict: str
    ratio: float | None
    after_s: float | None
    clock_ratio: float | None
    hottest_c: float | None
    throttled: int
    reason: str | None


@dataclass(frozen=True)
class SoakResult(Result):
    """What a soak of one cell found. Times in seconds.

    ``ended`` is "time", "verdict" (it was clear before), "worker" (that ended) or "running" (it was
    killed after the look that this was written at). ``readings`` are columns, a value for each
    slice: seconds and runs so far, p50 in ms, what the process held, how fast and warm the machine
    was; ``null`` is what can't be read.
    """

    FILE = "soak.json"
    MADE_BY = "edgepipe bench --soak"
    DERIVED = ("sentence",)

    model: Mapping[str, Any]
    host: Mapping[str, Any]
    measured: str
    cell: SoakedCell
    asked_s: float
    seconds: float
    runs: int
    slices: int
    ended: str
    verdict: str
    growth: tuple[Growth, ...]
    heat: Heat
    notes: tuple[str, ...]
    readings: Mapping[str, tuple[float | None, ...]]

    @property
    def sentence(self) -> str:
        """The verdict in words: "leaks 1.02 MiB per 1,000 runs [0.98 to 1.06]"."""
        said = [leak(one) for one in self.growth if one.verdict == LEAKS]
        if self.heat.verdict == THROTTLES and self.heat.after_s is not None:
            said.append(f"throttles after {self.heat.after_s / 60:.1f} min")
        return ", ".join(said) or self.verdict

    @property
    def exit_code(self) -> ExitCode:
        """What a shell sees."""
        if self.verdict in (LEAKS, THROTTLES, WRONG):
            return ExitCode.GATE_FAILED
        if self.ended == BY_WORKER:
            return ExitCode.RUNNER
        return ExitCode.OK if self.verdict == STEADY else ExitCode.INCONCLUSIVE


def leak(one: Growth) -> str:
    """A leak in words, with its interval."""
    assert one.per_1000_runs is not None
    assert one.interval
    low, high = one.interval
    unit = one.unit or one.quantity
    return f"leaks {one.per_1000_runs:.3g} {unit} per 1,000 runs [{low:.3g} to {high:.3g}]"
