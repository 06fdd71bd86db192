"""soak: one cell run for as long as is asked, to see what it leaks and when it slows down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from ....runners.base import RunnerError
from ....runners.timing.plan import Plan
from ...cells.session import Cell, OpenCell, open_cell
from ...progress import Progress
from ...settings.load import load_exported
from ...settings.options import seconds, takes
from ...settings.speed import SoakRequest
from ...storage.workspace import Workspace
from ..ranking import one_cell
from ..validity import MAX_TIMED_DEVIATION
from ..visits import Source
from .looks import LOOKS, STEADY_FROM, Look, Readings, interference, look
from .soak_result import (
    BY_TIME,
    BY_VERDICT,
    BY_WORKER,
    LEAKS,
    RUNNING,
    STEADY,
    THROTTLES,
    WRONG,
    SoakedCell,
    SoakResult,
)

# A reading comes after each slice: often enough for blocks at an early look, not so often that
# asking is what is measured.
SLICES, SHORTEST_SLICE, LONGEST_SLICE = 800, 0.05, 30.0


@takes(SoakRequest)
def soak(request: SoakRequest) -> SoakResult:
    """Run one cell for ``duration`` ("8h") or until the verdict is clear; writes ``soak.json``.

    The cell is the one that runners, variants and so on leave; of several it is the fastest in
    ``bench.json`` or, without one that is up to date, the first. The other keywords are keys of
    ``[bench]``. What was found so far is written at each look, so that a soak that is killed leaves
    something. Raises what ``errors.EXIT_CODES`` lists, and ``RunnerError`` for a cell that doesn't
    load.
    """
    request.refuse_several("a soak")
    config = load_exported(request.flags())
    place = Workspace(config.workspace, config.model)
    with place.exported(SoakResult.MADE_BY, request.progress.say) as manifest:
        cell, chosen = one_cell(place.folder, manifest, config.bench, config.places, "a soak")
        run = _Run(Source.of(place, manifest), cell, chosen, seconds(request.duration))
        return run.through(request.progress)


@dataclass(frozen=True)
class _Started:
    """What is known of a cell once it was loaded."""

    opened: OpenCell
    measured: str


class _Run:
    """One soak of one cell. The workspace is locked and verified."""

    def __init__(self, source: Source, cell: Cell, chosen: str, asked_s: float) -> None:
        self._source, self._cell, self._chosen = source, cell, chosen
        self._asked_s = asked_s
        self._readings = Readings()
        self._seen: Look | None = None
        self._wrong = 0.0

    def through(self, progress: Progress) -> SoakResult:
        """Run the cell, and write what each look found."""
        model = self._source.workspace.folder / self._cell.file
        with open_cell(self._cell, model) as opened:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            started = _Started(opened, now)
            ended, reason = BY_TIME, None
            try:
                ended = self._runs(started, progress)
            except RunnerError as error:
                if not self._readings.runs:
                    raise
                ended, reason = BY_WORKER, str(error)
            # Looking again at nearly the same readings would find again whatever they show.
            if ended == BY_TIME or self._seen is None:
                self._look()
            progress.step(1, 1, "")
            return self._written(started, ended, reason)

    def _runs(self, started: _Started, progress: Progress) -> str:
        """Slices until the time is over, or the verdict clear; returns which of the two."""
        worker = started.opened.worker
        feeds, _ = self._source.batch(started.opened)
        plan = self._plan()
        waiting = [share * self._asked_s for share in LOOKS]
        began = monotonic()
        while True:
            measured, _ = worker.measure(feeds, plan)
            after_s = monotonic() - began
            self._readings.add(after_s, measured, worker.usage())
            self._wrong = max(self._wrong, measured.deviation)
            if self._wrong > MAX_TIMED_DEVIATION:
                return BY_VERDICT
            progress.step(int(after_s), int(self._asked_s) + 1, self._so_far())
            if after_s < waiting[0]:
                continue
            waiting = [one for one in waiting if one > after_s]
            if not waiting:
                return BY_TIME
            verdict = self._look().verdict
            if verdict in (LEAKS, THROTTLES):
                return BY_VERDICT
            if verdict == STEADY and after_s >= STEADY_FROM * self._asked_s:
                return BY_VERDICT
            self._written(started, RUNNING, None)

    def _plan(self) -> Plan:
        slice_s = min(max(self._asked_s / SLICES, SHORTEST_SLICE), LONGEST_SLICE)
        return Plan(
            seconds=slice_s,
            min_samples=1,
            max_seconds=max(30.0, 5 * slice_s),
            window_seconds=0.0,
            warm_up_seconds=0.0,
        )

    def _look(self) -> Look:
        before = self._seen.found if self._seen else frozenset()
        self._seen = look(self._readings.columns(), before)
        return self._seen

    def _so_far(self) -> str:
        readings = self._readings
        held = readings.usage[-1].rss_mib
        resident = "" if held is None else f", {held:.1f} MiB"
        return f"{readings.runs[-1]:,} runs, {readings.p50_ms[-1]:.3g} ms{resident}"

    def _written(self, started: _Started, ended: str, reason: str | None) -> SoakResult:
        result = self._result(started, ended, reason)
        self._source.workspace.write(result)
        return result

    def _result(self, started: _Started, ended: str, reason: str | None) -> SoakResult:
        cell, manifest, opened = self._cell, self._source.manifest, started.opened
        columns, seen = self._readings.columns(), self._seen
        assert seen
        verdict, notes = seen.verdict, interference(columns)
        if self._wrong > MAX_TIMED_DEVIATION:
            verdict = WRONG
            notes.insert(0, f"outputs changed while timed (by {self._wrong:.1%} of the largest)")
        if reason:
            notes.insert(0, f"after {self._readings.runs[-1]:,} runs: {reason}")
        about: dict[str, Any] = {
            "batch": opened.batch,
            "options": dict(cell.options),
            "tuned": cell.tuned,
            "chosen": self._chosen,
        }
        files = (cell.file, *cell.beside)
        return SoakResult(
            artifacts={name: manifest.digests[name] for name in files},
            model=manifest.model,
            host=opened.worker.hello["host"],
            measured=started.measured,
            cell=SoakedCell.ran(cell, opened.loaded, **about),
            asked_s=self._asked_s,
            seconds=self._readings.after_s[-1],
            runs=self._readings.runs[-1],
            slices=len(self._readings.runs),
            ended=ended,
            verdict=verdict,
            growth=seen.growth,
            heat=seen.heat,
            notes=tuple(notes),
            readings=columns,
        )
