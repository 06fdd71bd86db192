"""The table of all cells: what bench and parity say of each, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..gather import Report, Row
from ..tables import columns
from ..tables.formatting import NONE
from ..tables.table import Column, Table, Value

CELL = Column("cell", lambda row: row.name(" · "))
BENCH = (
    *(columns.P90, columns.P99, columns.ON_DEVICE, columns.LOAD, columns.CACHED),
    *(columns.BUILD, columns.RSS),
    *(columns.ENERGY, columns.SIZE, columns.GENERATIONS),
)
PARITY = (
    *(columns.SQNR, replace(columns.LIMIT, title="at least"), columns.FILE, columns.KERNELS),
    columns.TOP1_AGREEMENT,
)


def cells(report: Report) -> Table:
    """Bench and parity side by side, a row for each cell.

    A figure that no cell has is left out; a setting that all share stands in the caption.
    """
    shown, common = [CELL], []
    for title, show in _SETTINGS:
        values = {show(row) for row in report.rows} - {NONE}
        if len(values) == 1:
            common.append(f"{title} {values.pop()}")
        elif values:
            shown.append(Column(title, show))
    offline = any(cell.throughput_ci95 for cell in report.bench.cells) if report.bench else False
    speed = (columns.P50, columns.LATENCY_INTERVAL)
    if offline:
        speed = (columns.THROUGHPUT, columns.THROUGHPUT_INTERVAL)
    reference = report.bench.reference if report.bench else ""
    relative = (columns.speedup(reference), columns.SPEEDUP_INTERVAL)
    shown += [_of("bench", columns.RELATIVE, "not timed")]
    shown += [_of("bench", column) for column in (*relative, *speed)]
    shown += [_of("bench", columns.TIMES, "not timed")]
    shown += [_of("bench", column) for column in BENCH]
    shown += [_of("parity", columns.VERDICT, "not judged")]
    shown += [_of("parity", column) for column in PARITY]
    table = Table.of(shown, report.rows, "; ".join(["Every cell", *common]))
    return table.without(lambda column: NONE if column.figure else None)


def timed(column: Column) -> Column:
    """A column of bench's, for the rows of a report."""
    return replace(column, get=lambda row: column.get(row.bench))


def _of(command: str, column: Column, absent: str | None = None) -> Column:
    """A column of a command's, for the rows of a report; a figure is for a cell that ran."""

    def get(row: Row) -> Value | None:
        cell = row.bench if command == "bench" else row.parity
        if cell is None:
            return absent
        return None if column.figure and cell.status != "ok" else column.get(cell)

    return replace(column, get=get, group=command)


def _threads(row: Row) -> str:
    judge = row.bench or row.parity
    return str(judge.threads) if judge and judge.threads else NONE


_SETTINGS: list[tuple[str, Callable[[Row], str]]] = [
    ("precision", lambda row: row.precision or NONE),
    ("threads", _threads),
]
