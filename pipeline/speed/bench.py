"""bench: how fast every cell is, in interleaved rounds, and whether that is slower than it was."""

from __future__ import annotations

import statistics as stats
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.base import RunnerError
from ...runners.timing.plan import SERVER, SINGLE_STREAM, Plan
from ..cells.plan import Refused, key_of, plan
from ..cells.session import Cell, timeable
from ..errors import ExitCode, UsageError
from ..numerics import intervals
from ..progress import Progress
from ..settings import placement
from ..settings.load import load_exported
from ..settings.machine import Places
from ..settings.options import fraction, takes
from ..settings.speed import BenchConfig, BenchRequest
from ..storage.workspace import Workspace
from ..verdicts import INCONCLUSIVE
from .baseline import Baseline
from .bench_result import SAMPLES, BenchResult, CellResult, exit_code, failed_row, measured_row
from .regression import Comparison, compare
from .rounds import QUICK_SECONDS, Entry, Rounds, Source, Visits, cached_load_ms, hosts, timing
from .validity import INVALID, judge, of_quick_run

# Half of an interval, of its middle: narrower than this, further rounds tell little.
TIGHT = 0.02
# A sweep goes on while a larger batch computes this much more in a second.
MIN_GAIN = 0.05
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


@takes(BenchRequest)
def bench(request: BenchRequest) -> BenchResult:
    """Measure every cell and write ``bench.json`` and ``bench.npz`` into the workspace.

    Cells are compared with those of the file ``baseline``, an earlier ``bench.json``, or of
    another workspace, ``rerun_baseline``, which is measured in the same rounds. The other
    keywords are the keys of ``[bench]``. Raises what ``errors.EXIT_CODES`` lists; a cell that
    fails is part of the result, whose ``exit_code`` says so.
    """
    config = load_exported(request.flags())
    again = request.rerun_baseline
    if request.baseline is not None and again is not None:
        raise UsageError("--baseline compares with a file, --rerun-baseline measures: choose one")
    earlier = None if request.baseline is None else Baseline.load(request.baseline)
    with ExitStack() as stack:

        def source(root: Path) -> Source:
            place = Workspace(root, config.model)
            locked = place.exported("edgepipe bench", request.progress.say)
            return Source.of(place, stack.enter_context(locked))

        new, old = source(config.workspace), None
        if again is not None:
            if again.resolve() == config.workspace.resolve():
                raise UsageError("--rerun-baseline: that is the workspace itself")
            old = source(again)
        result = measure_cells(
            new, config.bench, config.places, request.quick, request.progress, earlier, old
        )
        new.workspace.write_result(SAMPLES, result.samples_file())
        new.workspace.write(result)
    return result


def measure_cells(
    source: Source,
    section: BenchConfig,
    places: Places,
    quick: bool,
    progress: Progress,
    baseline: Baseline | None = None,
    old: Source | None = None,
) -> BenchResult:
    """Measure every cell that the section asks for. The workspace is locked and verified.

    A cell that fails keeps its reason and the others go on. Cells are judged by those of
    ``baseline``, or of the workspace ``old``, which is measured along with this one. Raises
    ``UsageError`` for an emulated target, whose timings would mean nothing.
    """
    if section.scenario == SERVER and section.rate is None:
        raise UsageError("the server scenario needs a --rate, in runs per second")
    intervals.require()
    cells, refused = plan_cells(source, section, places)
    partners = _partners(cells, old, section, places)
    run = _Run(source, section, quick, progress, baseline, partners)
    results = run.sweep(cells) if section.batch == "sweep" else run.measure(cells)
    results += [(CellResult.refused(one, scenario=section.scenario), ()) for one in refused]
    rows = _with_speedups([row for row, _ in results])
    problems = placement.unmet([row.provider or "" for row in rows], section.require_ep)
    return BenchResult(
        model=source.manifest.model,
        host=next(iter(run.hosts.values()), {}),
        hosts=run.hosts,
        scenario=section.scenario,
        quick=quick,
        baseline=str(old.workspace.folder) if old else str(baseline.path) if baseline else None,
        cells=tuple(rows),
        artifacts=source.manifest.digests,
        problems=problems,
        exit_code=ExitCode.GATE_FAILED if problems else exit_code(rows, section),
        samples=tuple(samples for _, samples in results),
    )


def plan_cells(
    source: Source, section: BenchConfig, places: Places
) -> tuple[list[Cell], list[Refused]]:
    """The cells that the section asks for (see ``plan``), set as their scenario needs it.

    Raises ``UsageError`` for an emulated target.
    """
    asked = section.batch is not None or section.concurrency is not None
    if asked:
        section = section.model_copy(update={"tuned": False})
    cells, refused = plan(
        source.workspace.folder, source.manifest, section, places, section.scenario
    )
    timeable(cells)
    streams = 1 if section.scenario == SINGLE_STREAM else section.concurrency
    batch = None if section.batch == "sweep" else section.batch
    set_up = [cell if cell.tuned else replace(cell, streams=streams, batch=batch) for cell in cells]
    return set_up, refused


class _Run:
    """One bench: cells are measured once, or again and again with larger batches."""

    def __init__(
        self,
        source: Source,
        section: BenchConfig,
        quick: bool,
        progress: Progress,
        baseline: Baseline | None,
        partners: Mapping[Cell, Entry],
    ) -> None:
        self._source = source
        self._section = section
        self._quick = quick
        self._progress = progress
        self._baseline = baseline
        self._partners = partners
        self.hosts: dict[str, Mapping[str, Any]] = {}

    def measure(self, cells: Sequence[Cell]) -> list[tuple[CellResult, tuple[np.ndarray, ...]]]:
        """The rows of these cells, with their samples."""
        entries = [Entry(cell, self._source) for cell in cells]
        partners = [self._partners.get(entry.cell) for entry in entries]
        groups = [
            [entry, partner] if partner else [entry]
            for entry, partner in zip(entries, partners, strict=True)
        ]
        rounds = Rounds(groups, self._timing(), self._progress)
        visits = rounds.visits
        rounds.run(
            1 if self._quick else self._section.rounds,
            lambda: self._tight(visits.values()) and self._decided(groups, visits),
        )
        self.hosts |= hosts(visits)
        results = []
        for entry, partner in zip(entries, partners, strict=True):
            row = self._row(entry, visits[entry])
            if row.status == "ok":
                row = self._compared(row, visits[entry], visits[partner] if partner else None)
            samples = tuple(found.samples for found in visits[entry].measurements)
            results.append((row, samples if row.status == "ok" else ()))
        return results

    def sweep(self, cells: Sequence[Cell]) -> list[tuple[CellResult, tuple[np.ndarray, ...]]]:
        """``measure`` with every batch that still brings each cell more throughput."""
        results = []
        best: dict[Cell, float] = {}
        going = list(cells)
        for batch in BATCHES:
            found = self.measure([replace(cell, batch=batch) for cell in going])
            if batch == BATCHES[0]:
                results += found
            else:  # a model with a batch of its own has no row for any other
                results += [(row, samples) for row, samples in found if row.status == "ok"]
            grown = []
            for cell, (row, _) in zip(going, found, strict=True):
                throughput = row.throughput_per_s or 0.0
                if throughput > best.get(cell, 0.0) * (1 + MIN_GAIN):
                    grown.append(cell)
                best[cell] = max(throughput, best.get(cell, 0.0))
            going = grown
            if not going:
                break
        return results

    def _timing(self) -> Plan:
        seconds = QUICK_SECONDS if self._quick else self._section.seconds
        return timing(seconds, self._section.scenario, self._section.rate or 0.0)

    def _tight(self, visits: Iterable[Visits]) -> bool:
        for found in visits:
            if found.error is None:
                figures = found.figures(self._section.scenario)
                low, high = intervals.interval(figures)
                if (high - low) / 2 > TIGHT * stats.mean(figures):
                    return False
        return True

    def _decided(self, groups: Sequence[Sequence[Entry]], visits: Mapping[Entry, Visits]) -> bool:
        """Whether every pair has a verdict; further rounds may bring one."""
        pairs = [[visits[entry] for entry in group] for group in groups if len(group) == 2]
        return all(
            self._paired(*pair).verdict != INCONCLUSIVE
            for pair in pairs
            if all(found.error is None for found in pair)
        )

    def _paired(self, new: Visits, old: Visits) -> Comparison:
        scenario, limit = self._section.scenario, fraction(self._section.max_slowdown)
        return compare(new.figures(scenario), old.figures(scenario), limit, paired=True)

    def _compared(self, row: CellResult, new: Visits, old: Visits | None) -> CellResult:
        limit = fraction(self._section.max_slowdown)
        if self._baseline:
            comparison = self._baseline.compare(row, self.hosts[row.target], limit)
        elif not self._partners:
            return row
        elif old is None:
            comparison = Comparison(INCONCLUSIVE, limit, reason="not in the other workspace")
        elif old.error is not None:
            comparison = Comparison(INCONCLUSIVE, limit, reason=f"the old one: {old.error}")
        else:
            comparison = self._paired(new, old)
        return replace(row, comparison=comparison)

    def _row(self, entry: Entry, visits: Visits) -> CellResult:
        if visits.error is not None:
            return failed_row(entry.cell, self._section.scenario, visits.error)
        verdict, notes = self._verdict(entry, visits)
        load_cached_ms = None
        if not self._quick:
            try:
                load_cached_ms = cached_load_ms(entry)
            except RunnerError as error:  # what was measured holds all the same
                notes = (*notes, f"loading from a cache was not measured: {error}")
        return replace(
            measured_row(entry, visits, self._section.scenario, self._section.rate),
            verdict=verdict,
            notes=notes,
            load_cached_ms=load_cached_ms,
        )

    def _verdict(self, entry: Entry, visits: Visits) -> tuple[str, tuple[str, ...]]:
        placed, section = visits.opened[0].loaded.placement, self._section
        verdict, notes = judge(
            entry.cell,
            visits.measurements,
            visits.sqnr_db,
            self._source.goldens.reference_sqnr_db,
            section.scenario,
            section.rate or 0.0,
        )
        if missed := placement.missed(placed.shares(), placed.provider, section.require_ep):
            verdict, notes = INVALID, (*missed, *notes)
        if spread := placement.spread(placed.shares(), placed.provider):
            notes = (spread, *notes)
        if elsewhere := self._tuned_elsewhere(entry.cell):
            notes = (elsewhere, *notes)
        if estimate := entry.cell.target.estimate:
            notes = (f"{estimate} (oneDNN: {placed.isa})", *notes)
        return of_quick_run(verdict, notes) if self._quick else (verdict, notes)

    def _tuned_elsewhere(self, cell: Cell) -> str:
        found = self._source.manifest.recommendation(key_of(cell, self._section.scenario))
        here = self.hosts.get(cell.target.name, {}).get("cpu")
        if not cell.tuned or found is None or found.evidence.get("cpu") == here:
            return ""
        return f"tuned on another CPU ({found.evidence.get('cpu')}): tune again, or --untuned"


def _partners(
    cells: Sequence[Cell], old: Source | None, section: BenchConfig, places: Places
) -> dict[Cell, Entry]:
    """The same cells of another workspace: its files, with the settings that these run with."""
    if old is None:
        return {}
    there, _ = plan_cells(old, section, places)
    found = {key_of(cell, section.scenario): cell for cell in there}
    partners = {}
    for cell in cells:
        if one := found.get(key_of(cell, section.scenario)):
            same = replace(cell, file=one.file, beside=one.beside)
            partners[cell] = Entry(same, old)
    return partners


def _with_speedups(results: Sequence[CellResult]) -> list[CellResult]:
    """Each row against fp32's with the same settings."""

    def key(row: CellResult) -> tuple[Any, ...]:
        return (row.runner, row.target, row.precision, row.threads, row.batch)

    base = {
        key(row): row.throughput_per_s if row.latency_ms is None else 1 / row.latency_ms.p50
        for row in results
        if row.variant == "fp32" and row.status == "ok" and row.scenario != SERVER
    }
    completed = []
    for row in results:
        against = base.get(key(row))
        own = row.throughput_per_s if row.latency_ms is None else 1 / row.latency_ms.p50
        completed.append(replace(row, speedup=own / against) if own and against else row)
    return completed
