"""An earlier ``bench.json``, as what a bench is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import InputError
from ..numerics import ratios
from ..numerics.ratios import FEWEST
from ..verdicts import INCONCLUSIVE
from .bench_result import BenchResult, CellResult, Comparison, compare, over_generations_ms
from .validity import INVALID

# What makes two rows the same cell.
KEY = ("variant", "runner", "target", "precision", "device", "scenario", "batch")
SAME = ("threads", "streams", "options", "rate")
# How far a cell's time in runs of the meter moves from one bench to the next though nothing has
# changed, in logarithms: see docs/bench.md for what was measured.
METER_MOVES = 0.05


@dataclass(frozen=True)
class Baseline:
    """The cells of an earlier bench, and the file that it was in."""

    cells: tuple[CellResult, ...]
    hosts: Mapping[str, Mapping[str, Any]]
    path: Path
    meters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quick: bool = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ``bench.json``. Raises ``InputError`` if it isn't one."""
        found = BenchResult.load(path, "measure the baseline with this `edgepipe bench`")
        if found is None:
            raise InputError(f"{path}: No such file or directory")
        return cls(found.cells, found.hosts, path, found.meters, found.quick)

    def compare(
        self,
        row: CellResult,
        host: Mapping[str, Any],
        meter: Mapping[str, Any] | None,
        max_slowdown: float,
    ) -> Comparison:
        """Judge a row of a bench by the same one here, both in runs of their ``meter``.

        Timings of another machine, with other threads or wrong say nothing about a change.
        """

        def unknown(reason: str) -> Comparison:
            return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)

        if self.quick:
            return unknown("the baseline is a quick bench")

        def key(cell: CellResult) -> list[Any]:
            return [getattr(cell, name) for name in KEY]

        same = (cell for cell in self.cells if cell.status == "ok" and key(cell) == key(row))
        if (old := next(same, None)) is None:
            return unknown(f"not in {self.path}")
        there = self.hosts.get(row.target, {})
        for fact in ("cpu", "physical_cores", "isa"):
            if there.get(fact) != host.get(fact):
                return unknown(f"another machine: {fact} was {there.get(fact)}")
        for setting in SAME:
            if (was := getattr(old, setting)) != (now := getattr(row, setting)):
                return unknown(f"{setting} was {was}, now {now}")
        for name, cell in (("baseline", old), ("measurement", row)):
            if cell.verdict == INVALID:
                return unknown(f"the {name} is invalid")
            if min(cell.generations, len(cell.in_meters)) < FEWEST:
                return unknown(f"the {name} has {len(cell.in_meters)} generations with a meter")
        if (was := self.meters.get(row.target)) != meter:
            return unknown(f"the meter was {was}, now {meter}")
        new_logs, old_logs = (np.log(cell.in_meters).tolist() for cell in (row, old))
        ratio = ratios.compare(new_logs, old_logs, METER_MOVES)
        baseline_ms = over_generations_ms(old.generation_ms).value
        return compare(ratio, max_slowdown, baseline_ms)
