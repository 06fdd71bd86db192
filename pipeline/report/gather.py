"""What a report is about: the manifest and the results beside it, put together cell by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..judging.evaluate_result import CellAccuracy, EvaluationResult
from ..judging.explanation import ExplainResult
from ..judging.parity_result import CellVerdict, ParityResult
from ..profiling.profile_result import ProfileResult
from ..quantization.search.search_result import SearchResult
from ..speed.bench_result import BenchResult, CellResult
from ..speed.comparison.compare import CompareResult
from ..speed.tune import TuneResult
from ..storage import goldens as recorded
from ..storage.goldens import Goldens
from ..storage.manifest import Manifest
from . import results
from .results import Source

AnyCell = CellResult | CellVerdict | CellAccuracy
Found = TypeVar("Found", CellVerdict, CellAccuracy)
Anything = TypeVar("Anything")


@dataclass(frozen=True)
class Row:
    """A cell as each command knows it, ``None`` where one doesn't.

    ``generations`` are its raw samples in ms, an array for each.
    """

    variant: str
    runner: str
    target: str
    precision: str | None
    bench: CellResult | None = None
    parity: CellVerdict | None = None
    accuracy: CellAccuracy | None = None
    generations: tuple[np.ndarray, ...] = field(default=(), repr=False)
    batch: int | None = None

    def name(self, join: str = " on ") -> str:
        """ "int8 on ort-cpu", with what is out of the ordinary."""
        name = f"{self.variant}{join}{self.runner}"
        if self.precision not in (None, "f32"):
            name += f" in {self.precision}"
        if self.batch is not None:
            name += f", batch {self.batch}"
        return name if self.target == "local" else f"{name} at {self.target}"


@dataclass(frozen=True)
class Report:
    """Everything that a page shows. Results are ``None`` if missing or out of date.

    ``goldens`` are ``None`` for a model that takes no images.
    """

    manifest: Manifest
    sources: tuple[Source, ...]
    bench: BenchResult | None
    parity: ParityResult | None
    evaluation: EvaluationResult | None
    explanation: ExplainResult | None
    tuning: TuneResult | None
    profile: ProfileResult | None
    search: SearchResult | None
    comparison: CompareResult | None
    goldens: Goldens | None
    rows: tuple[Row, ...]

    def source(self, file: str) -> Source:
        """What became of a result file."""
        return next(source for source in self.sources if source.file == file)

    @property
    def hosts(self) -> Mapping[str, Mapping[str, Any]]:
        """The machines by target; bench's word counts first, since its figures depend on them."""
        merged: Mapping[str, Mapping[str, Any]] = {}
        for result in (self.tuning, self.evaluation, self.parity, self.bench):
            merged = {**merged, **(result.hosts if result else {})}
        return merged

    def bench_cpu(self, target: str) -> str | None:
        """The CPU that bench saw on a target, if it ran there."""
        return self.bench.hosts.get(target, {}).get("cpu") if self.bench else None

    @property
    def absent(self) -> tuple[str, ...]:
        """Runners that could not be asked at all, and failures that belong to no cell."""
        lines: dict[str, None] = {}
        for result in (self.bench, self.parity, self.evaluation, self.tuning):
            for cell in result.cells if result else ():
                if not cell.variant:
                    lines[f"{cell.runner}: {cell.status}: {cell.reason}"] = None
        for result in (self.bench, self.parity):
            lines |= dict.fromkeys(result.problems if result else ())
        return tuple(lines)


def gather(folder: Path, manifest: Manifest) -> Report:
    """Read what is in the folder and, of all models, beside it.

    Raises ``InputError`` for a damaged result.
    """
    sources: list[Source] = []

    def noted(found: tuple[Anything, Source]) -> Anything:
        sources.append(found[1])
        return found[0]

    bench = noted(results.read(folder, BenchResult, manifest))
    samples = noted(results.read_samples(folder, bench))
    parity = noted(results.read(folder, ParityResult, manifest))
    evaluation = noted(results.read(folder, EvaluationResult, manifest))
    return Report(
        manifest=manifest,
        bench=bench,
        parity=parity,
        evaluation=evaluation,
        explanation=noted(results.read(folder, ExplainResult, manifest)),
        tuning=noted(results.read(folder, TuneResult, manifest)),
        profile=noted(results.read(folder, ProfileResult, manifest)),
        search=noted(results.read(folder, SearchResult, manifest)),
        comparison=noted(results.read_comparison(folder.parent)),
        goldens=_goldens(folder, manifest),
        rows=tuple(_rows(bench, parity, evaluation, samples)),
        sources=tuple(sources),
    )


def _goldens(folder: Path, manifest: Manifest) -> Goldens | None:
    shown = manifest.preprocessing and recorded.FILE in manifest.artifacts
    return Goldens.load(folder / recorded.FILE) if shown else None


def _rows(
    bench: BenchResult | None,
    parity: ParityResult | None,
    evaluation: EvaluationResult | None,
    samples: Mapping[int, tuple[np.ndarray, ...]],
) -> list[Row]:
    """Bench's cells in its order, then those that only the others judged."""
    verdicts = [cell for cell in parity.cells if cell.variant] if parity else []
    accuracies = [cell for cell in evaluation.cells if cell.variant] if evaluation else []
    timed = [found for found in enumerate(bench.cells) if found[1].variant] if bench else []
    batches = {cell.batch for _, cell in timed if cell.status == "ok"}
    rows = [
        Row(
            *_key(cell),
            bench=cell,
            parity=_twin(cell, verdicts),
            accuracy=_twin(cell, accuracies),
            generations=samples.get(number, ()),
            batch=cell.batch if len(batches) > 1 else None,
        )
        for number, cell in timed
    ]
    shown = {id(row.parity) for row in rows}
    rows += [
        Row(*_key(cell), parity=cell, accuracy=_twin(cell, accuracies))
        for cell in verdicts
        if id(cell) not in shown
    ]
    shown = {id(row.accuracy) for row in rows}
    return rows + [Row(*_key(cell), accuracy=cell) for cell in accuracies if id(cell) not in shown]


def _key(cell: AnyCell) -> tuple[str, str, str, str | None]:
    return cell.variant, cell.runner, cell.target, cell.precision


def _twin(cell: AnyCell, others: Sequence[Found]) -> Found | None:
    """The same cell in another result; one that failed need not know its precision."""
    return next(
        (
            other
            for other in others
            if _key(other)[:3] == _key(cell)[:3]
            and (None in (cell.precision, other.precision) or cell.precision == other.precision)
        ),
        None,
    )
