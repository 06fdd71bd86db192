"""Which of the measured cells to ship: the fastest, or the most faithful of those as fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...runners.timing.plan import OFFLINE
from ..numerics.ratios import SAME, UNDECIDED
from .bench_result import BenchResult, CellResult


@dataclass(frozen=True)
class Pick:
    """The cell to ship.

    ``same`` are those as fast as the fastest, ``undecided`` those that nothing tells from it.
    """

    row: CellResult
    fastest: CellResult
    same: tuple[CellResult, ...]
    undecided: tuple[CellResult, ...]

    @property
    def as_fast(self) -> tuple[CellResult, ...]:
        """The others that could have been shipped as well, the fastest first."""
        return tuple(row for row in (self.fastest, *self.same) if row != self.row)


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

    return Pick(min((fastest, *same), key=worth), fastest, same, undecided)


def nearer(mine_db: float | None, other_db: float | None) -> bool:
    """Whether one is more faithful than another, by half a dB; ``None`` is bit for bit."""
    if mine_db is None or other_db is None:
        return mine_db is None and other_db is not None
    return mine_db - other_db >= 0.5
