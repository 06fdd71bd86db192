"""The table of all cells: what bench and parity say of each, side by side."""

from __future__ import annotations

from collections.abc import Callable

from ...speed.rows import CellResult
from ..choice import speed
from ..gather import Report, Row
from ..text.tables import decibels, ms, number
from .elements import MIB, NONE, Column, Table, Value, Verdict

Get = Callable[[Row], Value]


def cells(report: Report) -> Table:
    """Bench and parity side by side, a row for each cell.

    A figure that no cell has is left out; a setting that all share stands in the caption.
    """
    columns: list[tuple[Column, Get]] = [(Column("cell"), lambda row: row.name(" · "))]
    common = []
    for title, show in _SETTINGS:
        values = {show(row) for row in report.rows} - {NONE}
        if len(values) == 1:
            common.append(f"{title} {values.pop()}")
        elif values:
            columns.append((Column(title), show))
    columns += [(Column("verdict", group="bench"), _timing_verdict)]
    columns += [_bench(title, show) for title, show in _timing(report)]
    columns += [
        (Column("verdict", group="parity"), _parity_verdict),
        (Column("SQNR dB", figure=True, group="parity"), _sqnr),
        (Column("at least", figure=True, group="parity"), _limit),
        (Column("file dB", figure=True, group="parity"), _file),
        (Column("kernels dB", figure=True, group="parity"), _kernels),
        (Column("top-1", figure=True, group="parity"), _top1),
    ]
    shown = [
        (column, get)
        for column, get in columns
        if not column.figure or any(get(row) != NONE for row in report.rows)
    ]
    rows = tuple(tuple(get(row) for _, get in shown) for row in report.rows)
    return Table("; ".join(["Every cell", *common]), tuple(column for column, _ in shown), rows)


def _timing(report: Report) -> list[tuple[str, Callable[[CellResult], str]]]:
    """Columns of bench; those that say nothing of any cell are left out later."""
    offline = any(cell.throughput_ci95 for cell in report.bench.cells) if report.bench else False
    return [
        ("images/s" if offline else "p50 ms", _figure),
        ("95 % interval", _interval),
        ("p90 ms", lambda cell: _percentile(cell, 90)),
        ("p99 ms", lambda cell: _percentile(cell, 99)),
        ("× fp32", lambda cell: number(cell.speedup, ".2f")),
        ("load ms", lambda cell: number(cell.load_ms, ".0f")),
        ("cached", lambda cell: number(cell.load_cached_ms, ".0f")),
        ("RSS MiB", lambda cell: number(cell.peak_rss_mib, ".0f")),
        ("mJ/image", lambda cell: number(cell.energy_mj, ".1f")),
        ("file MiB", lambda cell: f"{cell.size_bytes / MIB:.1f}" if cell.size_bytes else NONE),
        ("rounds", lambda cell: str(cell.rounds)),
    ]


def _threads(row: Row) -> str:
    judge = row.bench or row.parity
    return str(judge.threads) if judge and judge.threads else NONE


_SETTINGS: list[tuple[str, Callable[[Row], str]]] = [
    ("precision", lambda row: row.precision or NONE),
    ("threads", _threads),
]


def _bench(title: str, show: Callable[[CellResult], str]) -> tuple[Column, Get]:
    def get(row: Row) -> str:
        return show(row.bench) if row.bench and row.bench.status == "ok" else NONE

    return Column(title, figure=True, group="bench"), get


def _figure(cell: CellResult) -> str:
    found = speed(cell)
    if found is None:
        return NONE
    return f"{found.value:.1f}" if found.offline else ms(found.value)


def _interval(cell: CellResult) -> str:
    found = speed(cell)
    if found is None or found.low is None or found.high is None:
        return NONE
    show = "{:.1f}".format if found.offline else ms
    return f"{show(found.low)}–{show(found.high)}"


def _percentile(cell: CellResult, rank: int) -> str:
    return ms(cell.latency_ms and getattr(cell.latency_ms, f"p{rank}"))


def _timing_verdict(row: Row) -> Value:
    return Verdict(row.bench.verdict or row.bench.status) if row.bench else "not timed"


def _parity_verdict(row: Row) -> Value:
    return Verdict(row.parity.verdict or row.parity.status) if row.parity else "not judged"


def _sqnr(row: Row) -> str:
    parity = row.parity
    return decibels(parity.sqnr_db, parity.max_abs) if parity else NONE


def _file(row: Row) -> str:
    """What the quantization costs: the file's own arithmetic against torch."""
    parity = row.parity
    return decibels(parity.file_sqnr_db, parity.file_max_abs) if parity else NONE


def _kernels(row: Row) -> str:
    """What the runner costs: its outputs against the file's own arithmetic."""
    parity = row.parity
    return decibels(parity.kernels_sqnr_db, parity.kernels_max_abs) if parity else NONE


def _limit(row: Row) -> str:
    return number(row.parity.gate.get("min_sqnr_db"), ".1f") if row.parity else NONE


def _top1(row: Row) -> str:
    return number(row.parity.top1_agreement, ".1%") if row.parity else NONE
