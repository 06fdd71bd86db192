"""bench: the latency of every cell, measured in interleaved rounds, each in a fresh process.

A round visits every cell once, in an order of its own, so that a machine that slows down does
so for all of them. In each visit a new worker loads the model, its outputs are compared with
the goldens, it warms up, and only then is it timed.
"""

from __future__ import annotations

import random
import statistics as stats
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ...runners.base import PlacementError, RunnerError, SessionError
from ...runners.images import Preprocessing
from ...runners.measure import Measurement, Plan
from .. import goldens as recorded
from .. import metrics, placement, statistics
from ..cells import (
    Cell,
    OpenCell,
    open_cell,
    plan,
    run_goldens,
    runner_failed,
    shares_fate,
    status_of,
)
from ..config import Config
from ..errors import ExitCode, UsageError
from ..gates import kind_of, mismatch
from ..progress import Progress
from ..workspace import Manifest, Workspace

SCHEMA_VERSION = 1
CHECKED_GOLDENS = 16
MIN_SAMPLES = 64
QUICK_SECONDS, QUICK_SAMPLES = 0.2, 16

# A smoke test of the outputs, not parity: far enough below any healthy cell to raise no false
# alarm, far above a broken one (int8 without VNNI lands at -2 dB).
FLOAT_MARGIN_DB = 40.0
MIN_SQNR_DB = {"tf32": 35.0, "f16": 40.0, "bf16": 12.0, "int8": 12.0}
# Timed outputs against untimed ones of the same session, relative to the largest output.
MAX_TIMED_DEVIATION = 1e-3

MAX_ROUND_SPREAD = 0.10
MAX_DRIFT = 0.10
MAX_STEAL_PERCENT = 2.0


@dataclass(frozen=True)
class Latency:
    """ms per run. A percentile that the samples can't carry is ``None``."""

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    stdev: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class CellResult:
    """A cell's row in ``bench.json``. Figures are ``None`` unless ``status`` is "ok".

    ``placement`` is the per cent of the nodes on each provider, ``provider`` the one asked for.
    ``speedup`` is the p50 of fp32 on the same runner and target divided by this one's.
    """

    variant: str
    runner: str
    target: str
    status: str
    reason: str | None = None
    verdict: str | None = None
    notes: tuple[str, ...] = ()
    file: str | None = None
    runner_version: str | None = None
    threads: int | None = None
    batch: int | None = None
    precision: str | None = None
    precision_from: str | None = None
    device: str | None = None
    device_name: str | None = None
    provider: str | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    placement: Mapping[str, float] = field(default_factory=dict)
    convolutions: Mapping[str, int] = field(default_factory=dict)
    latency_ms: Latency | None = None
    samples: int = 0
    rounds: int = 0
    throughput_per_s: float | None = None
    speedup: float | None = None
    sqnr_db: float | None = None
    load_ms: float | None = None
    first_inference_ms: float | None = None
    peak_rss_mib: float | None = None
    device_memory_mib: float | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class BenchResult:
    """What ``bench.json`` holds. ``hosts`` are the machines by target, ``host`` the first one.

    ``problems`` are failures that belong to no cell.
    """

    model: Mapping[str, Any]
    host: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    quick: bool
    cells: tuple[CellResult, ...]
    artifacts: Mapping[str, str]
    problems: tuple[str, ...]
    exit_code: ExitCode

    def to_json(self) -> dict[str, Any]:
        """The document: JSON values only."""
        document = asdict(self)
        del document["exit_code"]
        return {"schema_version": SCHEMA_VERSION, **document}


@dataclass
class _Visits:
    """What came back from a cell's rounds so far."""

    measurements: list[Measurement] = field(default_factory=list)
    opened: list[OpenCell] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)
    sqnr_db: list[float] = field(default_factory=list)
    error: RunnerError | None = None


def bench(
    workspace: Workspace, manifest: Manifest, config: Config, quick: bool, progress: Progress
) -> BenchResult:
    """Measure every cell that ``config.bench`` asks for. The workspace is locked and verified.

    A cell that fails keeps its reason and the others go on. Raises ``UsageError`` for an
    emulated target, whose timings would mean nothing.
    """
    cells, broken = plan(manifest, config, config.bench)
    for target in {cell.target for cell in cells}:
        if target.emulated:
            raise UsageError(f"target {target.name} is emulated: timings there mean nothing")
    rounds, timing = _timing(config, quick)
    goldens = recorded.Goldens.load(workspace.folder / recorded.FILE)
    preprocessing = Preprocessing.from_json(manifest.preprocessing)
    visits = {cell: _Visits() for cell in cells}
    steps = rounds * len(cells)
    for number in range(rounds):
        order = random.Random(number).sample(cells, len(cells))
        for position, cell in enumerate(order):
            progress.step(
                number * len(cells) + position, steps, f"round {number + 1}/{rounds}: {cell}"
            )
            visit = visits[cell]
            if visit.error is not None:
                continue
            try:
                _visit(workspace, cell, goldens, preprocessing, timing, visit)
            except RunnerError as error:
                visit.error = error
                _same_everywhere(cell, error, visits)
                if status_of(error) == "failed":
                    progress.say(f"{cell}: failed: {error}")
    progress.step(steps, steps, "")
    reference_db = goldens.reference_sqnr_db
    required = config.bench.require_ep
    results = [
        _result(cell, visits[cell], manifest, reference_db, quick, required) for cell in cells
    ]
    for runner, reason in broken.items():
        results.append(CellResult("", runner, "", "unavailable", reason=reason))
    results = _with_speedups(results)
    hosts = {
        cell.target.name: visit.opened[0].worker.hello["host"]
        for cell, visit in visits.items()
        if visit.opened
    }
    problems = placement.unmet([result.provider or "" for result in results], required)
    return BenchResult(
        model=manifest.model,
        host=next(iter(hosts.values()), {}),
        hosts=hosts,
        quick=quick,
        cells=tuple(results),
        artifacts={name: artifact.sha256 for name, artifact in manifest.artifacts.items()},
        problems=problems,
        exit_code=ExitCode.GATE_FAILED if problems else _exit_code(results, config),
    )


def _timing(config: Config, quick: bool) -> tuple[int, Plan]:
    """The number of rounds, and how long each visit measures."""
    seconds = QUICK_SECONDS if quick else config.bench.seconds
    timing = Plan(
        seconds=seconds,
        min_samples=QUICK_SAMPLES if quick else MIN_SAMPLES,
        max_seconds=max(30.0, 5 * seconds),
        window_seconds=min(0.1, seconds / 4),
        warm_up_seconds=max(0.5, 2 * seconds),
    )
    return 1 if quick else config.bench.rounds, timing


def _visit(
    workspace: Workspace,
    cell: Cell,
    goldens: recorded.Goldens,
    preprocessing: Preprocessing,
    timing: Plan,
    visit: _Visits,
) -> None:
    """One round of one cell, in a worker of its own."""
    with open_cell(cell, workspace.folder / cell.file) as opened:
        name = opened.loaded.inputs[0].name
        feeds, _, _ = next(goldens.batches(preprocessing, name, opened.batch))
        first = opened.worker.run(feeds)
        outputs = run_goldens(opened, goldens, preprocessing, CHECKED_GOLDENS)
        expected = {name: array[:CHECKED_GOLDENS] for name, array in goldens.fp32.items()}
        if problem := mismatch(outputs, expected):
            raise SessionError(problem)
        sqnr_db = min(metrics.sqnr_db(outputs[name], expected[name]) for name in expected)
        measurement, peak_rss_mib = opened.worker.measure(feeds, timing)
    visit.measurements.append(measurement)
    visit.opened.append(opened)
    visit.load_ms.append(opened.loaded.load_ms)
    visit.first_ms.append(first.elapsed_ms)
    visit.peak_rss_mib.append(peak_rss_mib)
    visit.sqnr_db.append(sqnr_db)


def _same_everywhere(cell: Cell, error: RunnerError, visits: Mapping[Cell, _Visits]) -> None:
    """What is missing for one cell and for others, too, is tried once."""
    for other, visit in visits.items():
        if shares_fate(other, cell, error):
            visit.error = visit.error or error


def _result(
    cell: Cell,
    visit: _Visits,
    manifest: Manifest,
    reference_db: float,
    quick: bool,
    required: Sequence[str],
) -> CellResult:
    if visit.error is not None:
        return CellResult(
            cell.variant,
            cell.runner,
            cell.target.name,
            status=status_of(visit.error),
            reason=str(visit.error),
            verdict="invalid" if isinstance(visit.error, PlacementError) else None,
            precision=cell.precision,
            device=cell.device,
        )
    opened, placed = visit.opened[0], visit.opened[0].loaded.placement
    rounds = [measurement.samples / 1e6 for measurement in visit.measurements]
    pooled = np.concatenate(rounds)
    verdict, notes = judge(cell, visit.measurements, visit.sqnr_db, reference_db)
    if missed := placement.missed(placed.shares(), placed.provider, required):
        verdict, notes = "invalid", (*missed, *notes)
    if spread := placement.spread(placed.shares(), placed.provider):
        notes = (spread, *notes)
    if quick:
        notes = (*notes, "quick: one short round, good for a smoke test only")
    p50 = float(np.median(pooled))
    return CellResult(
        cell.variant,
        cell.runner,
        cell.target.name,
        status="ok",
        verdict=verdict,
        notes=notes,
        file=cell.file,
        runner_version=opened.loaded.runner_version,
        threads=placed.threads,
        batch=opened.batch,
        precision=placed.precision,
        precision_from=placed.precision_from,
        device=placed.device,
        device_name=placed.device_name,
        provider=placed.provider,
        nodes=placed.nodes,
        placement=placed.shares(),
        convolutions=placed.convolutions,
        latency_ms=Latency(
            p50=p50,
            p90=statistics.percentile(pooled, 90),
            p99=statistics.percentile(pooled, 99),
            mean=float(pooled.mean()),
            stdev=float(pooled.std(ddof=1)),
            ci95=statistics.median_interval(rounds),
        ),
        samples=len(pooled),
        rounds=len(rounds),
        throughput_per_s=opened.batch * 1000 / float(pooled.mean()),
        sqnr_db=_finite(min(visit.sqnr_db)),
        load_ms=stats.median(visit.load_ms),
        first_inference_ms=stats.median(visit.first_ms),
        peak_rss_mib=max(visit.peak_rss_mib),
        device_memory_mib=_most(found.device_memory_mib for found in visit.measurements),
        size_bytes=sum(manifest.artifacts[name].size for name in (cell.file, *cell.beside)),
    )


def judge(
    cell: Cell,
    measurements: Sequence[Measurement],
    sqnr_db: Sequence[float],
    reference_db: float,
) -> tuple[str, tuple[str, ...]]:
    """ "valid", "noisy" or "invalid", with the reasons.

    ``sqnr_db`` are the checked outputs of each round against torch, ``reference_db`` is
    torch's own float32 against its float64.
    """
    wrong, noise = [], []
    kind = kind_of(cell.variant, cell.precision)
    floor = MIN_SQNR_DB.get(kind, reference_db - FLOAT_MARGIN_DB)
    if min(sqnr_db) < floor:
        wrong.append(f"wrong outputs: SQNR {min(sqnr_db):.1f} dB, at least {floor:.1f} expected")
    deviation = max(measurement.deviation for measurement in measurements)
    if deviation > MAX_TIMED_DEVIATION:
        wrong.append(f"outputs changed while timed (by {deviation:.1%} of the largest)")
    rounds = [measurement.samples for measurement in measurements]
    spread = statistics.round_spread(rounds)
    if spread > MAX_ROUND_SPREAD:
        noise.append(f"rounds differ by {spread:.0%}")
    drift = max((statistics.drift(samples) for samples in rounds), key=abs)
    if abs(drift) > MAX_DRIFT:
        noise.append(f"drifted by {drift:+.0%} within a round")
    steal = max(measurement.steal_percent for measurement in measurements)
    if steal > MAX_STEAL_PERCENT:
        noise.append(f"{steal:.0f} % of the CPU time was stolen by the host")
    if not all(measurement.settled for measurement in measurements):
        noise.append("did not settle while warming up")
    verdict = "invalid" if wrong else "noisy" if noise else "valid"
    return verdict, (*wrong, *noise)


def _with_speedups(results: Sequence[CellResult]) -> list[CellResult]:
    base = {
        (result.runner, result.target, result.precision, result.threads): result.latency_ms.p50
        for result in results
        if result.variant == "fp32" and result.latency_ms
    }
    completed = []
    for result in results:
        fp32 = base.get((result.runner, result.target, result.precision, result.threads))
        if result.latency_ms and fp32:
            speedup = fp32 / result.latency_ms.p50
            notes = result.notes
            if speedup < 1 and result.variant != "fp32":
                notes = (*notes, "slower than fp32 on the same runner")
            result = replace(result, speedup=speedup, notes=notes)
        completed.append(result)
    return completed


def _exit_code(results: Sequence[CellResult], config: Config) -> ExitCode:
    """1 for a cell that is invalid, 5 for a failed one or a missing runner that was asked for."""
    if any(result.verdict == "invalid" for result in results):
        return ExitCode.GATE_FAILED
    return ExitCode.RUNNER if runner_failed(results, config.bench) else ExitCode.OK


def _most(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return max(known) if known else None


def _finite(value: float) -> float | None:
    """For JSON, which has no infinities: ``None`` for equal (or non-finite) outputs."""
    return value if np.isfinite(value) else None
