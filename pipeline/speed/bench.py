"""bench: how fast every cell is, by turns, against its reference and against what it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.base import RunnerError
from ...runners.timing.plan import COLD, OFFLINE, SERVER, SINGLE_STREAM
from ..cells.plan import Refused, key_of, plan
from ..cells.session import Cell, timeable
from ..errors import ExitCode, UsageError
from ..numerics import ratios
from ..numerics.ratios import Ratio
from ..progress import Progress
from ..settings import placement
from ..settings.load import load_exported
from ..settings.machine import Places
from ..settings.options import fraction, takes
from ..settings.speed import (
    GATE_GENERATIONS,
    GENERATIONS,
    MAX_SLOWDOWN,
    MAX_SLOWDOWN_OF_FILE,
    BenchConfig,
    BenchRequest,
)
from ..storage.workspace import Workspace
from ..verdicts import INCONCLUSIVE
from .baseline import Baseline
from .bench_result import (
    SAMPLES,
    BenchResult,
    CellResult,
    Comparison,
    Pair,
    compare,
    exit_code,
    failed_row,
    measured_row,
    over_generations_ms,
    unmet,
)
from .sweep import sweep
from .turns import Turns
from .validity import INVALID, judge, of_quick_run
from .visits import (
    METER,
    Entry,
    Schedule,
    Source,
    Visits,
    hosts,
    streams_in,
)


@takes(BenchRequest)
def bench(request: BenchRequest) -> BenchResult:
    """Measure every cell and write ``bench.json`` and ``bench.npz`` into the workspace.

    Cells are compared with those of the file ``baseline``, an earlier ``bench.json``, or of
    another workspace, ``rerun_baseline``, which takes turns with this one. The other
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
    ``UsageError`` for an emulated target, whose timings would mean nothing, and for a reference
    that the workspace does not have.
    """
    if section.scenario == SERVER and section.rate is None:
        raise UsageError("the server scenario needs a --rate, in runs per second")
    if section.scenario == SERVER and {"decided", "faster"} & set(section.require):
        raise UsageError("--require: the server scenario has no ratios to decide by, only times")
    asked = section.reference != BenchConfig.model_fields["reference"].default
    if asked and section.reference not in source.manifest.variants:
        raise UsageError(f"reference: no {section.reference!r} in {source.workspace.folder}")
    ratios.require()
    cells, refused = plan_cells(source, section, places)
    partners = _partners(cells, old, section, places)
    run = _Run(source, section, quick, progress, baseline, partners)
    results = run.sweep(cells) if section.batch == "sweep" else run.measure(cells)
    results += [_Timed(CellResult.refused(one, scenario=section.scenario)) for one in refused]
    rows = [one.row for one in results]
    problems = placement.unmet([row.provider or "" for row in rows], section.require_ep)
    lacking = unmet(rows, section.require, section.reference, quick=quick)
    return BenchResult(
        model=source.manifest.model,
        host=next(iter(run.hosts.values()), {}),
        hosts=run.hosts,
        scenario=section.scenario,
        reference=section.reference,
        quick=quick,
        baseline=str(old.workspace.folder) if old else str(baseline.path) if baseline else None,
        cells=tuple(rows),
        artifacts=source.manifest.digests,
        pairs=tuple(run.pairs(rows)),
        meters=run.meters,
        problems=(*problems, *(text for text, _ in lacking)),
        exit_code=ExitCode.GATE_FAILED
        if problems
        else exit_code(rows, section, [verdict for _, verdict in lacking]),
        samples=tuple(one.samples for one in results),
        cycle_ms=tuple(one.cycle_ms for one in results),
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
    streams = 1 if section.scenario in (SINGLE_STREAM, COLD) else section.concurrency
    batch = None if section.batch == "sweep" else section.batch
    set_up = [cell if cell.tuned else replace(cell, streams=streams, batch=batch) for cell in cells]
    return set_up, refused


@dataclass(frozen=True)
class _Timed:
    """A row with its samples and its slices."""

    row: CellResult
    samples: tuple[np.ndarray, ...] = ()
    cycle_ms: np.ndarray = field(default_factory=lambda: np.empty(0))
    error: RunnerError | None = None

    def noted(self, note: str) -> _Timed:
        """The same with one more note in its row."""
        return replace(self, row=replace(self.row, notes=(*self.row.notes, note)))


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
        self.meters: dict[str, Mapping[str, Any]] = {}
        self._pairs: list[tuple[CellResult, CellResult, Ratio]] = []

    def measure(self, cells: Sequence[Cell]) -> list[_Timed]:
        """The rows of these cells, with their samples."""
        entries = [Entry(cell, self._source) for cell in cells]
        partners = [self._partners[cell] for cell in cells if cell in self._partners]
        # The reference of the table is that of the turns, too, where there is one.
        order = sorted(entries, key=lambda entry: entry.cell.variant != self._section.reference)
        single = self._section.scenario == SINGLE_STREAM
        together = [*order, *partners]
        turns = Turns(
            together, self._schedule(), self._progress, meter=single, cached=not self._quick
        )
        turns.run()
        visits = turns.visits
        self.hosts |= hosts(visits)
        self.meters |= {
            entry.cell.target.name: found.about
            for entry, found in visits.items()
            if entry.role == METER and found.measurements
        }
        results = []
        for entry in entries:
            row = self._row(entry, visits[entry])
            if row.status == "ok":
                row = replace(row, in_meters=tuple(map(math.exp, turns.meters(entry))))
                row = self._against(row, entry, entries, turns)
                row = self._compared(row, entry, turns)
            ran = visits[entry] if row.status == "ok" else Visits()
            cycle_ms = np.array(list(ran.cycles.values()))
            results.append(_Timed(row, tuple(ran.samples()), cycle_ms, visits[entry].error))
        self._pair(entries, [one.row for one in results], turns)
        return results

    def sweep(self, cells: Sequence[Cell]) -> list[_Timed]:
        """``measure`` with every batch that a sweep tries: see ``sweep``."""
        section = self._section
        free = section.scenario == OFFLINE and section.concurrency is None
        return sweep(cells, self.measure, self._explored if free else None)

    def _explored(self, cells: Sequence[Cell]) -> dict[Cell, tuple[float, int]]:
        """Ms for a run of each, and its streams, of a few short slices by turns."""
        entries = [Entry(cell, self._source) for cell in cells]
        turns = Turns(entries, self._schedule().quick(), self._progress)
        turns.run()
        return {
            entry.cell: (over_generations_ms(found.figures()).value, streams_in(found))
            for entry in entries
            if (found := turns.visits[entry]).error is None
        }

    def _schedule(self) -> Schedule:
        section = self._section
        usual = GATE_GENERATIONS if self._partners else GENERATIONS
        generations = section.generations or usual
        schedule = Schedule(generations, section.seconds, section.scenario, section.rate or 0.0)
        return schedule.quick() if self._quick else schedule

    def _against(
        self, row: CellResult, entry: Entry, entries: Sequence[Entry], turns: Turns
    ) -> CellResult:
        """The row against that of the reference variant with the same settings."""

        def settings(cell: Cell) -> tuple[Any, ...]:
            return (cell.runner, cell.target, cell.device, cell.precision, cell.threads, cell.batch)

        for other in entries if self._section.scenario != SERVER else ():
            same = settings(other.cell) == settings(entry.cell)
            if not (same and other.cell.variant == self._section.reference):
                continue
            if other == entry:
                return replace(row, speedup=1.0)
            if turns.visits[other].error is None and (found := turns.ratio(other, entry)):
                return replace(
                    row,
                    speedup=found.value,
                    speedup_ci95=found.ci95,
                    against_reference=ratios.verdict(found),
                )
        return row

    def _pair(self, entries: Sequence[Entry], rows: Sequence[CellResult], turns: Turns) -> None:
        """Keep how every two of the rows compare."""
        measured = [place for place, row in enumerate(rows) if row.status == "ok"]
        if self._section.scenario == SERVER:
            return
        for first, second in itertools.combinations(measured, 2):
            if found := turns.ratio(entries[second], entries[first]):
                self._pairs.append((rows[first], rows[second], found))

    def pairs(self, rows: Sequence[CellResult]) -> Iterator[Pair]:
        """How every two rows compare that took turns, by their places among these."""
        places = {id(row): place for place, row in enumerate(rows)}
        for first, second, found in self._pairs:
            if id(first) in places and id(second) in places:
                place, other = places[id(first)], places[id(second)]
                yield Pair.of(place, other, found)

    def _compared(self, row: CellResult, entry: Entry, turns: Turns) -> CellResult:
        usual = MAX_SLOWDOWN_OF_FILE if self._baseline else MAX_SLOWDOWN
        limit = fraction(self._section.max_slowdown or usual)
        partner = self._partners.get(entry.cell)
        if self._quick and (self._baseline or self._partners):
            comparison = Comparison(INCONCLUSIVE, limit, reason="this bench is a quick one")
        elif self._baseline:
            host = self.hosts[row.target]
            comparison = self._baseline.compare(row, host, self.meters.get(row.target), limit)
        elif not self._partners:
            return row
        elif partner is None:
            comparison = Comparison(INCONCLUSIVE, limit, reason="not in the other workspace")
        elif (error := turns.visits[partner].error) is not None:
            comparison = Comparison(INCONCLUSIVE, limit, reason=f"the old one: {error}")
        else:
            old_ms = over_generations_ms(turns.visits[partner].figures()).value
            comparison = compare(turns.ratio(entry, partner), limit, old_ms)
        return replace(row, comparison=comparison)

    def _row(self, entry: Entry, visits: Visits) -> CellResult:
        if visits.error is not None:
            return failed_row(entry.cell, self._section.scenario, visits.error)
        verdict, notes = self._verdict(entry, visits)
        if visits.uncached:  # what was measured holds all the same
            notes = (*notes, f"loading from a cache was not measured: {visits.uncached}")
        row = measured_row(entry, visits, self._section.scenario, self._section.rate)
        return replace(row, verdict=verdict, notes=notes)

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
