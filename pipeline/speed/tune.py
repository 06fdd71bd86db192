"""tune: the settings that make each cell fastest on its target, if any beat the defaults.

Candidates are tried in steps (threads and streams, then each of the runner's options, then the
helpful ones together), a few generations each, by turns with the default. What looks best has to
pass parity, and then to win against the default in generations of its own: the ones it was found in
would flatter it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ...runners.base import RunnerError
from ...runners.timing.plan import OFFLINE
from ..cells.plan import plan
from ..cells.session import Cell, real, start_worker, status_of, timeable, with_settings
from ..errors import ExitCode
from ..judging.parity import record
from ..judging.parity_result import CellVerdict, judge_all
from ..numerics import ratios
from ..numerics.ratios import MARGIN, Ratio
from ..progress import Progress, Silent
from ..settings.judging import GateConfig, ParityConfig
from ..settings.load import load_exported
from ..settings.machine import Places
from ..settings.options import takes
from ..settings.speed import TuneConfig, TuneRequest
from ..storage.document import UNWRITTEN, Result
from ..storage.manifest import CellKey, Recommendation
from ..storage.workspace import Transaction, Workspace
from ..verdicts import INCONCLUSIVE, PASS, exit_code
from .bench_result import over_generations_ms
from .sweep import halved, pools
from .turns import Turns
from .visits import Entry, Schedule, Source, Visits, streams_in

EXPLORING_GENERATIONS = 3
FINAL_GENERATIONS, FEWEST_FINAL = 12, 5
# Of a cell's share of the budget; the rest is for the final.
EXPLORING_SHARE = 0.6
# A setting is worth recommending if it is this much faster, beyond doubt.
MIN_GAIN = 0.01
BATCHES = (4, 16, 64, 256, 1024)

RECOMMENDED, DEFAULT = "recommended", "default"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """Settings beside the default: ``ratio`` is their time for an image divided by its.

    ``ci95`` is there for those that were in the final, ``reason`` for those that fell out.
    """

    settings: Settings
    ratio: float | None
    generations: int
    ci95: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Tuned:
    """A cell's row. ``verdict`` is "recommended", "default", or "inconclusive" where the interval
    is too wide to tell, with the ``reason`` for it.

    Times are in ms for an image, of the final's generations. ``seconds`` is what the search took,
    ``measured`` when it ended (UTC, ISO 8601).
    """

    variant: str
    runner: str
    target: str
    device: str
    precision: str
    scenario: str
    status: str
    verdict: str | None = None
    reason: str | None = None
    settings: Settings = field(default_factory=dict)
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    default_ms: float | None = None
    tuned_ms: float | None = None
    trials: tuple[Trial, ...] = ()
    seconds: float | None = None
    measured: str | None = None

    @property
    def key(self) -> CellKey:
        """As ``Recommendation.key``."""
        return CellKey(
            self.variant, self.runner, self.target, self.device, self.precision, self.scenario
        )


@dataclass(frozen=True)
class TuneResult(Result):
    """What tune found.

    ``budget`` is what the search was allowed for all cells, ``seconds`` what it took.
    """

    SCHEMA = 2
    FILE = "tune.json"
    MADE_BY = "edgepipe tune"

    model: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    budget: float
    seconds: float
    cells: tuple[Tuned, ...]
    # All that the manifest has from now on.
    recommended: tuple[Recommendation, ...] = field(default=(), metadata=UNWRITTEN)
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)


@takes(TuneRequest)
def tune(request: TuneRequest) -> TuneResult:
    """Search for the fastest settings of every cell; what wins becomes the recommended setting.

    Writes ``tune.json`` and the manifest's recommendations. The keywords are the keys of
    ``[tune]``. Raises what ``errors.EXIT_CODES`` lists; a cell that fails is part of the result.
    """
    config = load_exported(request.flags())
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe tune", request.progress.say) as manifest:
        source = Source.of(place, manifest)
        proof = Proof(config.parity, config.gates)
        result = _tune(source, config.tune, config.places, proof, request.progress)
        with Transaction(place, manifest) as transaction:
            transaction.recommend(result.recommended)
        place.write(result)
    return result


@dataclass(frozen=True)
class Proof:
    """What parity asks of settings before they are recommended."""

    section: ParityConfig
    limits: Mapping[str, GateConfig]

    def judge(self, source: Source, cell: Cell) -> CellVerdict:
        """The verdict on a cell, measured now."""
        recorded = record(source.workspace, source.manifest, self.section.samples, Silent(), [cell])
        return judge_all(recorded, self.section, self.limits).cells[0]


def _tune(
    source: Source, section: TuneConfig, places: Places, proof: Proof, progress: Progress
) -> TuneResult:
    """Search the settings of every cell that the section asks for, within its budget.

    A cell that fails keeps its reason and the others go on. Raises ``UsageError`` for an
    emulated target, and for one that computes as another CPU: settings are for a machine.
    """
    ratios.require()
    section = section.model_copy(update={"tuned": False})
    cells, refused = plan(source.workspace.folder, source.manifest, section, places)
    timeable(cells)
    real(cells)
    started = time.monotonic()
    rows: list[Tuned] = []
    recommended = {found.key: found for found in source.manifest.recommended}
    hosts: dict[str, Mapping[str, Any]] = {}
    for number, cell in enumerate(cells):
        left = started + section.budget - time.monotonic()
        search = _Search(source, cell, section, proof, left / (len(cells) - number), progress)
        row = search.run()
        rows.append(row)
        if search.host:
            hosts[cell.target.name] = search.host
        if row.verdict == DEFAULT:
            recommended.pop(row.key, None)
        if row.verdict == RECOMMENDED:
            found = search.recommendation(row)
            recommended[found.key] = found
        progress.say(f"{cell}: {row.verdict or row.status}: {row.reason}")
    rows += [
        Tuned(
            *(one.variant, one.runner, one.target, "", one.precision or "", section.scenario),
            one.status,
            reason=one.reason,
        )
        for one in refused
    ]
    return TuneResult(
        model=source.manifest.model,
        artifacts=source.manifest.digests,
        hosts=hosts,
        budget=section.budget,
        seconds=time.monotonic() - started,
        cells=tuple(rows),
        recommended=tuple(recommended.values()),
        exit_code=exit_code(rows, section.runners),
    )


class _Search:
    """One cell's search."""

    def __init__(
        self,
        source: Source,
        cell: Cell,
        section: TuneConfig,
        proof: Proof,
        seconds: float,
        progress: Progress,
    ) -> None:
        self._source = source
        self._proof = proof
        self._seconds, self._scenario = section.seconds, section.scenario
        self._cell = replace(cell, streams=None if self._scenario == OFFLINE else 1)
        self._progress = progress
        self._started = time.monotonic()
        self._explored = self._started + EXPLORING_SHARE * seconds
        self._end = self._started + seconds
        self._trials: dict[Cell, Trial] = {}
        self._streams = 1
        self.host: Mapping[str, Any] | None = None

    def run(self) -> Tuned:
        """Explore, gate, decide."""
        row = self._search()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(row, seconds=time.monotonic() - self._started, measured=now)

    def _search(self) -> Tuned:
        try:
            tunables = self._ask()
            best = self._explore(tunables)
            if best is None:
                return self._row(DEFAULT, "nothing that was tried is faster")
            return self._final(best)
        except RunnerError as error:
            return replace(self._row(None, str(error)), status=status_of(error))

    def recommendation(self, row: Tuned) -> Recommendation:
        """What the manifest keeps of a row that is recommended."""
        manifest, host = self._source.manifest, self.host or {}
        evidence = {
            "sha256": manifest.artifacts[self._cell.file].sha256,
            "ratio": row.ratio,
            "ci95": row.ci95,
            "default_ms": row.default_ms,
            "tuned_ms": row.tuned_ms,
            "cpu": host.get("cpu"),
            "physical_cores": host.get("physical_cores"),
            "measured": row.measured,
            "candidates": len(row.trials),
            "seconds": row.seconds,
        }
        return Recommendation(
            *(row.variant, row.runner, row.target, row.device, row.precision),
            row.settings,
            evidence,
            row.scenario,
        )

    def _ask(self) -> Mapping[str, Sequence[Any]]:
        """The runner's options with their values. Raises ``RunnerError``."""
        with closing(start_worker(self._cell)) as worker:
            self.host = worker.hello["host"]
            return worker.describe(self._cell.runner).tunables

    def _explore(self, tunables: Mapping[str, Sequence[Any]]) -> Settings | None:
        """The best of what was tried, or ``None`` if that is the default."""
        host, offline = self.host or {}, self._scenario == OFFLINE
        cores, cpus = int(host["physical_cores"]), int(host["logical_cpus"])
        best = self._fastest({}, pools(cores, cpus, self._cell.threads, offline=offline))
        options = [{name: value} for name, values in tunables.items() for value in values]
        alone = [{**best, "options": option} for option in options]
        fastest = self._fastest(best, alone)
        helpful: dict[str, Any] = {}
        for settings in sorted(alone, key=self._ratio, reverse=True):
            if self._ratio(settings) < self._ratio(best):
                helpful |= settings["options"]  # the best value of an option comes last
        if len(helpful) > 1:
            fastest = self._fastest(fastest, [{**best, "options": helpful}])
        if offline and self._source.manifest.model["batch"] == "dynamic":
            fastest = self._batches(fastest)
        return fastest if self._ratio(fastest) < 1 else None

    def _batches(self, best: Settings) -> Settings:
        """Larger batches, each with the streams of the best so far and with fewer of them.

        The first that isn't faster with any ends that, or the first that finds no memory.
        """
        for batch in BATCHES:
            larger = {**best, "batch": batch}
            fewer = halved(best.get("streams", self._streams))
            counts = dict.fromkeys((*fewer[:1], *fewer[-1:]))
            found = self._fastest(best, [larger, *({**larger, "streams": n} for n in counts)])
            if found is best:
                break
            best = found
        return best

    def _fastest(self, best: Settings, candidates: Sequence[Settings]) -> Settings:
        """Try the candidates beside the default; the best of them and of ``best``."""
        cells = [with_settings(self._cell, settings) for settings in candidates]
        fresh = [cell for cell in cells if cell not in self._trials]
        if fresh and time.monotonic() < self._explored:
            turns = self._measure([self._cell, *fresh], EXPLORING_GENERATIONS, self._explored)
            for cell, settings in zip(cells, candidates, strict=True):
                if cell in fresh:
                    self._trials[cell] = self._trial(settings, cell, turns)
        return min((best, *candidates), key=self._ratio)

    def _ratio(self, settings: Settings) -> float:
        if not settings:
            return 1.0
        trial = self._trials.get(with_settings(self._cell, settings))
        return float("inf") if trial is None or trial.ratio is None else trial.ratio

    def _trial(self, settings: Settings, cell: Cell, turns: Turns) -> Trial:
        visits = turns.visits[Entry(cell, self._source)]
        found = self._against_default(cell, turns)
        if visits.error is not None or found is None:
            return Trial(settings, None, len(visits.measurements), reason=str(visits.error))
        return Trial(settings, found.value, len(visits.measurements))

    def _measure(self, cells: Sequence[Cell], most: int, end: float, at_least: int = 1) -> Turns:
        """The cells by turns, the default first. Raises ``RunnerError`` if that one fails."""
        entries = [Entry(cell, self._source) for cell in cells]
        turns = Turns(entries, Schedule(most, self._seconds, self._scenario), self._progress)
        turns.run(lambda: time.monotonic() > end, at_least)
        if (error := turns.visits[entries[0]].error) is not None:
            raise error
        self._streams = streams_in(turns.visits[entries[0]])
        return turns

    def _against_default(self, cell: Cell, turns: Turns) -> Ratio | None:
        """The time for an image, divided by the default's."""
        new, old = (Entry(one, self._source) for one in (cell, self._cell))
        found = turns.ratio(new, old)
        if found is None:
            return None
        images = self._batch(turns.visits[old]) / self._batch(turns.visits[new])
        return found.scaled(images)

    def _batch(self, visits: Visits) -> int:
        return visits.opened[0].batch

    def _final(self, settings: Settings) -> Tuned:
        """The best candidate under parity, then against the default."""
        cell = with_settings(self._cell, settings)
        judged = self._proof.judge(self._source, cell)
        if judged.verdict != PASS:
            why = f"parity {judged.verdict or judged.status}: {judged.reason}"
            self._trials[cell] = replace(self._trials[cell], reason=why)
            return self._row(DEFAULT, f"the fastest settings fail: {why}")
        turns = self._measure(
            [self._cell, cell], FINAL_GENERATIONS, self._end, at_least=FEWEST_FINAL
        )
        new, old = (turns.visits[Entry(one, self._source)] for one in (cell, self._cell))
        if new.error is not None:
            raise new.error
        found = self._against_default(cell, turns)
        assert found
        ci95 = (found.low, found.high)
        self._trials[cell] = Trial(settings, found.value, len(new.measurements), ci95)
        shown = f"x {found.value:.3f} [{found.low:.3f}–{found.high:.3f}] of the default's time"
        if found.high < 1 - MIN_GAIN:
            row = replace(self._row(RECOMMENDED, shown), settings=settings)
        elif found.low > 1 - MARGIN:
            row = self._row(DEFAULT, f"not significantly faster: {shown}")
        else:
            row = self._row(INCONCLUSIVE, f"{shown}: a longer --budget may tell")
        default_ms, tuned_ms = (
            over_generations_ms(one.figures()).value / self._batch(one) for one in (old, new)
        )
        return replace(row, ratio=found.value, ci95=ci95, default_ms=default_ms, tuned_ms=tuned_ms)

    def _row(self, verdict: str | None, reason: str) -> Tuned:
        cell = self._cell
        return Tuned(
            cell.variant,
            cell.runner,
            cell.target.name,
            cell.device,
            cell.precision,
            self._scenario,
            "ok",
            verdict,
            reason,
            trials=tuple(self._trials.values()),
        )
