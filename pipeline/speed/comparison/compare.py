"""compare: which model to take. What each one costs, by arithmetic and by the clock.

Models are measured like the cells of one: by turns, outputs checked (see ``turns``). Accuracy is
the published one, since a choice is made before anything is trained.
"""

from __future__ import annotations

import statistics as stats
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from ....exporters.threads import torch_threads
from ....exporters.weights import sources
from ....exporters.zoo import ARCHITECTURES
from ....runners import documents
from ....runners.images import Size, sides
from ....runners.timing.plan import SINGLE_STREAM
from ...cells.plan import plan
from ...cells.session import Cell, real, timeable
from ...errors import ExitCode
from ...numerics import ratios
from ...numerics.precision import FOREIGN
from ...progress import Progress
from ...settings.load import load
from ...settings.machine import Places
from ...settings.options import takes
from ...settings.speed import CompareConfig, CompareRequest
from ...storage.atomic import writable, write_whole
from ...storage.document import UNWRITTEN, Document
from ..bench_result import CellResult, exit_code, failed_row, measured_row
from ..turns import Turns
from ..validity import judge, of_quick_run
from ..visits import (
    Entry,
    Schedule,
    Source,
    Visits,
    hosts,
)
from . import candidates
from .candidates import VARIANTS, Candidate, Speed, architectures, exported
from .convolutions import Convolution, by_arithmetic, by_the_clock

# What the published counts and accuracies are for.
TRAINING_BATCH, TRAINING_STEPS = 8, 3


@dataclass(frozen=True)
class CompareResult(Document):
    """Models side by side. ``hosts`` are the machines by target, ``host`` is the first one.

    ``artifacts`` are the SHA-256 of the files of each model of a workspace; models of the zoo
    have random weights and none. ``measured`` says when (UTC, ISO 8601).
    """

    FILE = "compare.json"
    MADE_BY = "edgepipe compare"

    artifacts: Mapping[str, Mapping[str, str]]
    models: tuple[Candidate, ...]
    convolutions: tuple[Convolution, ...]
    host: Mapping[str, Any]
    static: bool
    quick: bool = False
    measured: str | None = None
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)


@takes(CompareRequest)
def compare(request: CompareRequest) -> CompareResult:
    """Put models side by side: what they cost by arithmetic and, unless ``static``, measured.

    With ``workspace`` those exported there, all of them if none is named. Without one the
    architectures of the zoo, which are exported with random weights into the user's cache the
    first time. ``convolutions`` compares standard with separable ones, too, at MobileNetV2's
    shapes. What was measured is left in the workspace's root as ``compare.json``; ``static``
    leaves nothing. The other keywords are the keys of ``[compare]``. Raises what
    ``errors.EXIT_CODES`` lists.
    """
    config = load(request.flags())
    section, places, progress = config.compare, config.places, request.progress
    names, here = request.models, request.workspace is not None
    with ExitStack() as stack:
        found = []
        if here:
            found = candidates.open_exported(config.workspace, names, stack, progress)
        if not request.static:
            writable(config.workspace)  # what follows takes minutes
        if not request.static and not here:
            found = candidates.open_zoo(names, section, stack, progress)
        if request.static:
            rows = tuple(map(exported, found)) if here else architectures(names, section)
            result = CompareResult({}, rows, (), {}, static=True)
        else:
            result = measure_models(found, section, places, request.quick, progress)
        if here:
            result = replace(result, artifacts=digests(found))
    if request.convolutions:
        shapes = by_arithmetic() if request.static else by_the_clock(section, places, progress)
        result = replace(result, convolutions=shapes)
    if not request.static:
        text = documents.text(result.to_json())
        write_whole(config.workspace / CompareResult.FILE, text.encode())
    return result


def measure_models(
    models: Sequence[Source],
    section: CompareConfig,
    places: Places,
    quick: bool,
    progress: Progress,
) -> CompareResult:
    """Measure these models' cells, all by turns; then a training step of each.

    Raises ``UsageError`` for an emulated target, whose timings would mean nothing, and for one that
    computes as another CPU.
    """
    ratios.require()
    planned = [_entries(source, section, places) for source in models]
    schedule = Schedule(section.generations, section.seconds)
    together = [entry for entries, _ in planned for entry in entries]
    turns = Turns(together, schedule.quick() if quick else schedule, progress)
    turns.run()
    results = [
        [*(_row(entry, turns.visits[entry], quick) for entry in entries), *refused]
        for entries, refused in planned
    ]
    speeds = []
    for found, (entries, _) in zip(results, planned, strict=True):
        timed = list(map(_speed, found))
        for place, entry in enumerate(entries):
            timed[place] = _with_ratio(timed[place], entry, turns)
        speeds.append(timed)
    rows = [
        replace(exported(source), speeds=tuple(found))
        for source, found in zip(models, speeds, strict=True)
    ]
    if section.training:
        rows = [_with_training_step(row, section, progress) for row in rows]
    every = [result for found in results for result in found]
    machines = hosts(turns.visits)
    return CompareResult(
        artifacts={},
        models=with_fronts(rows),
        convolutions=(),
        host=next(iter(machines.values()), {}),
        hosts=machines,
        static=False,
        quick=quick,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        exit_code=exit_code(every, section),
    )


def digests(models: Sequence[Source]) -> dict[str, dict[str, str]]:
    """The SHA-256 of each model's files, by the name of its folder."""
    return {source.workspace.folder.name: source.manifest.digests for source in models}


def with_fronts(rows: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The rows with ``pareto`` set: what nothing else beats in both respects, conditions equal.

    A variant counts with its architecture's published accuracy, which is that of float32.
    """

    def beaten(row: Candidate, speed: Speed) -> bool:
        assert row.published_top1 is not None
        assert speed.p50_ms is not None
        for other in rows:
            for rival in other.speeds:
                if rival.condition != speed.condition or rival.p50_ms is None:
                    continue
                better = (other.published_top1 or 0.0) - row.published_top1
                faster = speed.p50_ms - rival.p50_ms
                if better >= 0 and faster >= 0 and (better > 0 or faster > 0):
                    return True
        return False

    return tuple(
        replace(
            row,
            speeds=tuple(
                replace(
                    speed,
                    pareto=row.published_top1 is not None
                    and speed.p50_ms is not None
                    and not beaten(row, speed),
                )
                for speed in row.speeds
            ),
        )
        for row in rows
    )


def training_step_ms(
    architecture: str, classes: int, width: float | None, size: Size, threads: int | None
) -> float:
    """Ms for one image of a training step with a batch of 8: forward, backward, SGD's update.

    The median of three steps on noise after one that isn't counted.
    """
    import torch
    from torch.nn import functional

    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = sources.construct(architecture, classes, width).train()
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)
        inputs = torch.randn(TRAINING_BATCH, 3, *sides(size))
        labels = torch.randint(classes, (TRAINING_BATCH,))
        taken = []
        for _ in range(1 + TRAINING_STEPS):
            started = perf_counter()
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
            taken.append(perf_counter() - started)
    return 1000 * stats.median(taken[1:]) / TRAINING_BATCH


def _entries(
    source: Source, section: CompareConfig, places: Places
) -> tuple[list[Entry], list[CellResult]]:
    """A model's cells, and the rows of those that were asked for and can't be."""
    manifest = source.manifest
    if not section.variants:
        compared = (*VARIANTS, *FOREIGN)
        usual = {name: files for name, files in manifest.variants.items() if name in compared}
        manifest = replace(manifest, variants=usual)
    cells, refused = plan(source.workspace.folder, manifest, section, places)
    timeable(cells)
    real(cells)
    rows = [CellResult.refused(one) for one in refused]
    return [Entry(cell, source) for cell in cells], rows


def _row(entry: Entry, visits: Visits, quick: bool) -> CellResult:
    if visits.error is not None:
        return failed_row(entry.cell, SINGLE_STREAM, visits.error)
    reference = entry.source.goldens.reference_sqnr_db
    verdict, notes = judge(entry.cell, visits.measurements, visits.sqnr_db, reference)
    if quick:
        verdict, notes = of_quick_run(verdict, notes)
    return replace(measured_row(entry, visits, SINGLE_STREAM, None), verdict=verdict, notes=notes)


def _speed(row: CellResult) -> Speed:
    latency = row.latency_ms
    return Speed(
        row.variant,
        row.runner,
        row.status,
        row.reason,
        row.verdict,
        row.notes,
        row.precision,
        row.threads,
        latency.p50 if latency else None,
        latency.ci95 if latency else None,
        row.peak_rss_mib,
        row.runner_version,
        target=row.target,
    )


def _with_ratio(speed: Speed, entry: Entry, turns: Turns) -> Speed:
    """Against the first cell that ran there on the same runner and in the same precision."""

    def place(cell: Cell) -> tuple[Any, ...]:
        return (cell.runner, cell.target, cell.precision)

    for first, visits in turns.visits.items():
        if visits.error is None and place(first.cell) == place(entry.cell):
            found = turns.ratio(entry, first) if speed.status == "ok" else None
            return replace(speed, ratio=found.value, ratio_ci95=found.ci95) if found else speed
    return speed


def _with_training_step(row: Candidate, section: CompareConfig, progress: Progress) -> Candidate:
    if row.architecture not in ARCHITECTURES or not row.classes or not row.input_size:
        return row
    progress.step(0, 1, f"training step of {row.model}")
    took = training_step_ms(
        row.architecture, row.classes, row.width, row.input_size, section.threads
    )
    progress.step(1, 1, "")
    return replace(row, training_step_ms=took)
