"""What a search found, as tables and as text for a terminal."""

from __future__ import annotations

from textwrap import wrap

from ...quantization.search.search_result import Found, SearchResult
from ..tables.formatting import NONE, WIDTH, interval, number
from ..tables.formatting import text as shown
from ..tables.table import Column, Table, figure
from . import judged

SHOWN_LAYERS = 4


def _decibels(row: Found) -> str:
    return "equal" if row.sqnr_db is None else number(row.sqnr_db, ".1f")


def _time(runner: str) -> Column:
    def ratio(row: Found) -> str:
        speed = row.speed(runner)
        ends = interval(speed.ci95, "{:.2f}".format)
        return NONE if speed.ratio is None else f"{speed.ratio:.2f} [{ends}]"

    return figure(f"{runner}: × the time [95 %]", ratio, f"{runner}: × time")


def fronts(result: SearchResult) -> Table:
    """The variants that are worth having, each beside the int8 that export made."""
    columns = [
        Column("variant", lambda row: row.variant),
        figure("dB", _decibels),
        figure("top-1 same", lambda row: number(row.agreement, ".1%"), "top-1"),
    ]
    for speed in result.found[0].speeds if result.found else ():
        columns.append(_time(speed.runner))
    if any(row.drop is not None for row in result.found):
        columns.append(figure("drop", lambda row: number(row.drop, "+.2f")))
        columns.append(
            figure("95 % interval", lambda row: interval(row.drop_ci95, "{:+.2f}".format))
        )
    columns.append(
        Column("recommended for", lambda row: ", ".join(row.recommended) or NONE, brief="ship on")
    )
    return Table.of(columns, result.found, "What the search found")


def text(result: SearchResult) -> str:
    """The table, what each variant is, and what ended the search."""
    lines: list[str] = []
    for remark in remarks(result):
        lines += wrap(remark, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return shown(fronts(result).text(), *lines)


def remarks(result: SearchResult) -> list[str]:
    """What each variant is, what the figures are of, and what ended the search."""
    lines = []
    for row in result.found:
        line = f"{row.variant}: {', '.join(row.candidate.recipe)}"
        if row.layers:
            more = len(row.layers) - SHOWN_LAYERS
            rest = f" and {more} more" if more > 0 else ""
            line += f"; in float: {', '.join(row.layers[:SHOWN_LAYERS])}{rest}"
        lines.append(line)
    lines.append(
        f"dB and top-1 on the goldens, which the search never saw; {len(result.trials)} tried on "
        f"{result.images['count']} {result.images['are']} in {result.seconds:.0f} s; "
        f"ended by: {result.ended}"
    )
    return [*lines, *judged.spread(result.cluster), *result.problems]
