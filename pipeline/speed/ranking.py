"""Which of the measured cells to ship: the fastest, or the most faithful of those as fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...runners.timing.plan import OFFLINE
from ..numerics.ratios import SAME, UNDECIDED
from .bench_result import BenchResult, CellResult, Pair


@dataclass(frozen=True)
class Pick:
    """The cell to ship, and how it compares.

    ``same`` are those as fast as the fastest, ``undecided`` those that nothing tells from it.
    ``against`` is the reference with the same settings and ``pair`` how the cell compares with it,
    ``None`` where it is that itself or there is none.
    """

    row: CellResult
    fastest: CellResult
    same: tuple[CellResult, ...]
    undecided: tuple[CellResult, ...]
    against: CellResult | None
    pair: Pair | None


def cost(row: CellResult) -> float:
    """Sorts the fastest first: ms for a run, or seconds for an image where throughput counts."""
    if row.scenario == OFFLINE or row.latency_ms is None:
        return 1 / row.throughput_per_s if row.throughput_per_s else float("inf")
    return row.latency_ms.p50


def pick(
    result: BenchResult,
    rows: Sequence[CellResult],
    faithful_db: Callable[[CellResult], float | None] = lambda row: row.sqnr_db,
) -> Pick:
    """The row to ship of these, which are of one target and not empty.

    Of those as fast as the fastest (see ``ratios.verdict``) it is the most faithful one by whole
    dB, then the smaller file. ``faithful_db`` says how near a row is to the original, ``None`` for
    bit for bit.
    """
    fastest = min(rows, key=cost)
    compared = [(row, result.pair(row, fastest)) for row in rows if row != fastest]
    same = tuple(row for row, pair in compared if pair and pair.verdict == SAME)
    undecided = tuple(row for row, pair in compared if pair and pair.verdict == UNDECIDED)

    def worth(row: CellResult) -> tuple[float, float]:
        near = faithful_db(row)
        return (-math.floor(near + 0.5) if near is not None else -math.inf, row.size_bytes or 0)

    best = min((fastest, *same), key=worth)
    against = reference_of(result, best)
    pair = result.pair(best, against) if against and against != best else None
    return Pick(best, fastest, same, undecided, against, pair)


def reference_of(result: BenchResult, row: CellResult) -> CellResult | None:
    """The row that another is held against: the reference variant with the same settings."""

    def settings(one: CellResult) -> tuple[object, ...]:
        return (one.runner, one.target, one.device, one.precision, one.threads, one.batch)

    for other in result.cells:
        same = settings(other) == settings(row)
        if other.status == "ok" and other.variant == result.reference and same:
            return other
    return None
