"""Which of several cells: to ship the fastest, or the most faithful of those as fast; to look into
the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runners.base import RunnerUnavailable
from ...runners.timing.plan import OFFLINE, SINGLE_STREAM
from ..cells.plan import key_of, plan
from ..cells.session import Cell, timeable
from ..errors import UsageError
from ..numerics.ratios import SAME, UNDECIDED
from ..settings.machine import Places
from ..settings.speed import BenchConfig
from ..storage.manifest import Manifest
from .bench_result import BenchResult, CellResult
from .validity import INVALID


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


def one_cell(
    folder: Path,
    manifest: Manifest,
    section: BenchConfig,
    places: Places,
    what: str,
    able: Callable[[Cell], bool] = lambda _cell: True,
) -> tuple[Cell, str]:
    """The cell to look into, one run at a time, and why it is this one if others could be.

    ``what`` needs it ("a profile"). Where no runner is named those that are ``able`` come first.
    Raises ``UsageError`` for a sweep and for an emulated target, ``RunnerUnavailable`` where there
    is none.
    """
    if section.batch == "sweep":
        raise UsageError(f"bench.batch: {what} is of one batch, not of a sweep")
    if section.batch is not None:
        section = section.model_copy(update={"tuned": False})
    cells, refused = plan(folder, manifest, section, places)
    if not cells:
        raise RunnerUnavailable(refused[0].reason if refused else "no runner is there")
    if not section.runners:
        cells = list(filter(able, cells)) or cells
    timeable(cells)
    best, chosen = cells[0], ""
    if len(cells) > 1:
        times = _times(folder, manifest)
        known = [cell for cell in cells if key_of(cell, SINGLE_STREAM) in times]
        if known:
            best = min(known, key=lambda cell: times[key_of(cell, SINGLE_STREAM)])
            chosen = f"the fastest of {len(known)} cells in {BenchResult.FILE}"
        else:
            chosen = f"the first of {len(cells)} cells, which were not benched yet"
        chosen += "; --variant and --runner choose another"
    if not best.tuned:
        batch = section.batch if isinstance(section.batch, int) else None
        best = replace(best, batch=batch)
    return replace(best, streams=1), chosen


def _times(folder: Path, manifest: Manifest) -> dict[Any, float]:
    """Ms of a run of each cell that was benched, if that was of these files."""
    found = BenchResult.load(folder / BenchResult.FILE)
    if found is None or found.stale(manifest.digests):
        return {}
    return {
        row.key: row.latency_ms.p50
        for row in found.cells
        if row.latency_ms and row.verdict != INVALID and row.scenario == SINGLE_STREAM
    }
