"""Larger and larger batches, each with the streams that it computes most with, until that is all.

What one batch gains depends on how many of them are under way at once: with as many streams as were
best for single images a larger batch seems to bring nothing long before the device is full. So a
sweep tries fewer streams with each batch, does not end at the first that brings little, and ends in
any case where the memory does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

from ...runners.base import OutOfMemory, RunnerError
from ..cells.session import Cell
from .bench_result import CellResult

# A larger batch is worth it if it computes this much more in a second.
MIN_GAIN = 0.05
# Doublings in a row that bring less, and a cell's sweep ends.
PATIENCE = 2
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Timed(Protocol):
    """What measuring a cell gave: its row, and why it has no figures."""

    @property
    def row(self) -> CellResult: ...
    @property
    def error(self) -> RunnerError | None: ...
    def noted(self, note: str) -> Self:
        """The same with one more note in its row."""
        ...


T = TypeVar("T", bound=Timed)
Measure = Callable[[Sequence[Cell]], list[T]]
# The time of a run of each cell with its own number of streams, in ms, and how many that were.
Explore = Callable[[Sequence[Cell]], Mapping[Cell, tuple[float, int]]]


@dataclass
class _Going:
    """A cell that the sweep goes on with.

    ``best`` are the most images per second so far, ``idle`` the batches since that brought no more,
    ``place`` is where its last row is.
    """

    cell: Cell
    best: float = 0.0
    idle: int = 0
    place: int | None = None


def sweep(cells: Sequence[Cell], measure: Measure[T], explore: Explore | None = None) -> list[T]:
    """The rows of every batch that was tried, in their order.

    With ``explore`` each batch has the streams that are fastest for it, else the cells' own. A
    cell's first row is there whatever it says; a larger batch that fails is a note of its last.
    """
    results: list[T] = []
    going = [_Going(cell) for cell in cells]
    for batch in BATCHES:
        for one in going:
            one.cell = replace(one.cell, batch=batch)
            one.cell = best_streams(one.cell, explore) if explore else one.cell
        found = _measured([one.cell for one in going], measure)
        left = []
        for one, timed in zip(going, found, strict=True):
            if timed.row.status != "ok" and one.place is not None:
                results[one.place] = results[one.place].noted(_end(batch, timed))
                continue
            one.place = len(results)
            results.append(timed)
            throughput = timed.row.throughput_per_s or 0.0
            one.idle = 0 if throughput > one.best * (1 + MIN_GAIN) else one.idle + 1
            one.best = max(throughput, one.best)
            if timed.row.status == "ok" and one.idle < PATIENCE:
                left.append(one)
        going = left
        if not going:
            return results
    for one in going:
        if one.place is not None and not one.idle:
            what = f"batches over {BATCHES[-1]} were not tried, and this one still gained"
            results[one.place] = results[one.place].noted(what)
    return results


def best_streams(cell: Cell, explore: Explore) -> Cell:
    """The cell with the number of streams that it is fastest with: its own, half of that, or one.

    Where the runner may choose the number, all halves of what it chooses are tried.
    """
    if cell.streams == 1:
        return cell
    tried = dict(explore([cell, replace(cell, streams=1)]))
    if cell not in tried:  # it may have run out of memory beside the others
        return min(tried, key=lambda one: tried[one][0], default=cell)
    halves = halved(tried[cell][1])
    more = [replace(cell, streams=count) for count in halves if count > 1]
    if cell.streams is not None:
        more = more[:1]
    if more:
        fastest = min(tried, key=lambda one: tried[one][0])
        again = explore([fastest, *more])
        tried |= {one: again[one] for one in more if one in again}
        tried |= {fastest: again[fastest]} if fastest in again else {}
    return min(tried, key=lambda one: tried[one][0])


def halved(streams: int) -> list[int]:
    """Half of them, a quarter, and so on to one; none of one."""
    return [streams >> bits for bits in range(1, streams.bit_length())]


def _measured(cells: Sequence[Cell], measure: Measure[T]) -> list[T]:
    """Side by side; who finds no memory beside the others and its own twin, once more alone."""
    found = measure(cells)
    if len(cells) == 1:
        return found
    return [
        measure([cell])[0] if isinstance(timed.error, OutOfMemory) else timed
        for cell, timed in zip(cells, found, strict=True)
    ]


def _end(batch: int, timed: Timed) -> str:
    """Why a sweep went no further."""
    full = isinstance(timed.error, OutOfMemory)
    what = "does not fit into the memory" if full else "has no result"
    return f"the sweep ends here: batch {batch} {what}: {timed.row.reason}"


def pools(cores: int, cpus: int, threads: int | None, *, offline: bool) -> list[dict[str, int]]:
    """Other numbers of threads than the default's, and offline of streams, for a search to try.

    The threads stay if they were asked for.
    """
    counts = sorted({1, *(2**n for n in range(1, 8) if 2**n < cpus), cores, cpus})
    default = threads or cores
    others = [] if threads else [count for count in counts if count != default]
    if not offline:
        return [{"threads": count} for count in others]
    streams = [{"streams": count} for count in counts if count <= default]
    return [*streams, *({"threads": count} for count in others if count > default)]
