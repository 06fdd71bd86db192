"""An earlier ``bench.json``, as what a bench is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import InputError
from ..verdicts import INCONCLUSIVE
from .bench_result import BenchResult, CellResult
from .regression import Comparison, compare
from .validity import VALID

# What makes two rows the same cell.
KEY = ("variant", "runner", "target", "precision", "device", "scenario", "batch")
SAME = ("threads", "streams", "options", "rate")


@dataclass(frozen=True)
class Baseline:
    """The cells of an earlier bench, and the file that it was in."""

    cells: tuple[CellResult, ...]
    hosts: Mapping[str, Mapping[str, Any]]
    path: Path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ``bench.json``. Raises ``InputError`` if it isn't one."""
        found = BenchResult.load(path, "measure the baseline with this `edgepipe bench`")
        if found is None:
            raise InputError(f"{path}: No such file or directory")
        return cls(found.cells, found.hosts, path)

    def compare(self, row: CellResult, host: Mapping[str, Any], max_slowdown: float) -> Comparison:
        """Judge a row of a bench by the same one here.

        Timings of another machine, with other threads or not valid say nothing about a change.
        """

        def unknown(reason: str) -> Comparison:
            return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)

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
            if cell.verdict != VALID:
                return unknown(f"the {name} is {cell.verdict}")
        return compare(row.round_ms, old.round_ms, max_slowdown, paired=False)
