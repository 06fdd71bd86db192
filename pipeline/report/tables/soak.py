"""A soak as a table and lines: what the process held, how latency ended, and one verdict."""

from __future__ import annotations

from ...speed.soak.soak_result import Growth, Heat, SoakResult
from . import formatting
from .formatting import NONE, ms, number
from .table import Column, Table, figure

ENDED = {
    "time": "all of the time",
    "verdict": "ended early, as the verdict is clear",
    "worker": "ended by its worker",
    "running": "not at its end yet",
}


def text(result: SoakResult) -> str:
    """The cell, what each quantity did, and the verdict."""
    return formatting.text(
        headline(result),
        growth(result).text(),
        *(f"  {line}" for line in remarks(result)),
        f"{result.sentence}: {duration(result)}",
    )


def headline(result: SoakResult) -> str:
    """Which cell it is, with its settings, and why it is this one."""
    cell = result.cell
    place = "" if cell.target == "local" else f" on {cell.target}"
    chosen = f" ({cell.chosen})" if cell.chosen else ""
    return (
        f"{cell.variant} / {cell.runner}{place} {cell.precision}, batch {cell.batch}, "
        f"threads {cell.threads}{chosen}"
    )


def duration(result: SoakResult) -> str:
    """How long and how often it ran, and why it ended."""
    asked, lasted = _time(result.asked_s), _time(result.seconds)
    return f"after {result.runs:,} runs in {lasted} of {asked}, {ENDED[result.ended]}"


def growth(result: SoakResult) -> Table:
    """How each quantity of the process grew."""
    heads = (
        Column("quantity", lambda one: _name(one)),
        figure("first", lambda one: number(one.first, ".1f" if one.unit else ".0f")),
        figure("last", lambda one: number(one.last, ".1f" if one.unit else ".0f")),
        figure("per 1,000 runs", lambda one: number(one.per_1000_runs, ".3g")),
        figure("interval", _interval),
        Column("verdict", lambda one: one.verdict),
    )
    return Table.of(heads, result.growth, "What the process holds, after warming up")


def remarks(result: SoakResult) -> list[str]:
    """Latency, heat, and what is to be said of the rows."""
    lines = [heat(result)]
    lines += [f"{_name(one)}: {one.reason}" for one in result.growth if one.reason]
    lines += [f"latency: {result.heat.reason}"] if result.heat.reason else []
    return [*lines, *result.notes]


def heat(result: SoakResult) -> str:
    """How latency, clock and temperature ended."""
    found, columns = result.heat, result.readings
    first, last = columns["p50_ms"][0], columns["p50_ms"][-1]
    ratio = "" if found.ratio is None else f", the end is {found.ratio:.3f} times the beginning"
    clock = _clock(columns["clock_mhz"])
    warm = "temperature not readable" if found.hottest_c is None else _hottest(found)
    return (
        f"latency {found.verdict}: p50 {ms(first)} ms in the first slice, {ms(last)} in the last"
        f"{ratio}; {clock}, {warm}"
    )


def _hottest(found: Heat) -> str:
    return f"{found.hottest_c:.0f} °C at most"


def _clock(column: tuple[float | None, ...]) -> str:
    if column[0] is None or column[-1] is None:
        return "clock not readable"
    return f"clock {column[0]:.0f} MHz, then {column[-1]:.0f}"


def _name(one: Growth) -> str:
    return f"{one.quantity}, {one.unit}" if one.unit else one.quantity


def _interval(one: Growth) -> str:
    if one.interval is None:
        return NONE
    return " to ".join(f"{end:.3g}" for end in one.interval)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
