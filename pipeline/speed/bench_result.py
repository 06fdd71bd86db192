"""What bench found out: a row for each cell, with its figures taken from its rounds."""

from __future__ import annotations

import io
import statistics as stats
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...runners.base import PlacementError, RunnerError
from ...runners.timing.plan import OFFLINE, SERVER, SINGLE_STREAM
from ..cells.row import CellRow
from ..cells.session import Cell
from ..errors import ExitCode
from ..numerics import intervals
from ..settings.judging import CellsConfig
from ..storage.document import UNWRITTEN, Result
from ..storage.manifest import CellKey
from ..verdicts import FAIL, code_of
from .regression import Comparison
from .rounds import Entry, Visits
from .validity import INVALID

SAMPLES = "bench.npz"


@dataclass(frozen=True)
class Latency:
    """ms per run. A percentile that the samples can't carry is ``None``.

    ``ci95`` is the interval of the mean of the rounds' medians (see ``intervals.interval``).
    """

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    stdev: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CellResult(CellRow):
    """A cell's row in ``bench.json``. Figures are ``None`` unless ``status`` is "ok".

    ``round_ms`` is what each round says (see ``rounds.figure``); throughput is in images per
    second. ``speedup`` is the time of fp32 with the same settings divided by this one's.
    ``energy_mj`` is for one image, and the whole CPU's. Latencies are ``None`` offline, where
    only the throughput counts.
    """

    verdict: str | None = None
    notes: tuple[str, ...] = ()
    scenario: str = SINGLE_STREAM
    rate: float | None = None
    streams: int | None = None
    batch: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    latency_ms: Latency | None = None
    samples: int = 0
    rounds: int = 0
    round_ms: tuple[float, ...] = ()
    throughput_per_s: float | None = None
    throughput_ci95: tuple[float, float] | None = None
    speedup: float | None = None
    comparison: Comparison | None = None
    sqnr_db: float | None = None
    load_ms: float | None = None
    load_cached_ms: float | None = None
    first_inference_ms: float | None = None
    peak_rss_mib: float | None = None
    device_memory_mib: float | None = None
    energy_mj: float | None = None
    size_bytes: int | None = None

    @property
    def key(self) -> CellKey:
        """What a recommendation for this cell is kept under."""
        device, precision = self.device or "", self.precision or ""
        return CellKey(self.variant, self.runner, self.target, device, precision, self.scenario)


@dataclass(frozen=True)
class BenchResult(Result):
    """What bench measured. ``hosts`` are the machines by target, ``host`` the first one.

    ``problems`` are failures that belong to no cell.
    """

    FILE = "bench.json"
    MADE_BY = "edgepipe bench"

    model: Mapping[str, Any]
    host: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    scenario: str
    quick: bool
    baseline: str | None
    cells: tuple[CellResult, ...]
    problems: tuple[str, ...]
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)
    # Each cell's raw samples, the rounds one after the other, in ns: see ``samples_file``.
    samples: tuple[tuple[np.ndarray, ...], ...] = field(default=(), metadata=UNWRITTEN)

    def samples_file(self) -> bytes:
        """The raw samples as a compressed ``.npz``.

        ``N`` holds those of row N of ``cells``, int64 ns, and ``N.rounds`` how many of them
        each round took.
        """
        arrays: dict[str, np.ndarray] = {}
        for number, rounds in enumerate(self.samples):
            if rounds:
                arrays[f"{number}"] = np.concatenate(rounds)
                arrays[f"{number}.rounds"] = np.array([len(samples) for samples in rounds])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()


def exit_code(rows: Sequence[CellResult], section: CellsConfig) -> ExitCode:
    """``code_of`` the comparisons with a baseline; a row that is invalid has failed a gate."""
    verdicts = [row.comparison.verdict for row in rows if row.comparison]
    verdicts += [FAIL for row in rows if row.verdict == INVALID]
    return code_of(verdicts, rows, section.runners)


def failed_row(cell: Cell, scenario: str, error: RunnerError) -> CellResult:
    """The row of a cell without figures."""
    verdict = INVALID if isinstance(error, PlacementError) else None
    return CellResult.failed(cell, error, verdict=verdict, scenario=scenario, batch=cell.batch)


def measured_row(entry: Entry, visits: Visits, scenario: str, rate: float | None) -> CellResult:
    """The row of a cell that went through its rounds, without a verdict."""
    cell, opened = entry.cell, visits.opened[0]
    artifacts = entry.source.manifest.artifacts
    figures = visits.figures(scenario)
    samples = np.concatenate([found.samples for found in visits.measurements]) / 1e6
    return CellResult.ran(
        cell,
        opened.loaded,
        scenario=scenario,
        rate=rate if scenario == SERVER else None,
        streams=opened.loaded.placement.streams,
        batch=opened.batch,
        options=dict(cell.options),
        tuned=cell.tuned,
        latency_ms=None if scenario == OFFLINE else _latency(samples, figures),
        samples=len(samples),
        rounds=len(figures),
        round_ms=tuple(figures),
        throughput_per_s=_throughput(visits, samples, opened.batch, scenario),
        throughput_ci95=_throughput_interval(figures, opened.batch, scenario),
        sqnr_db=_finite(min(visits.sqnr_db)),
        load_ms=stats.median(visits.load_ms),
        first_inference_ms=stats.median(visits.first_ms),
        peak_rss_mib=max(visits.peak_rss_mib),
        device_memory_mib=_most(found.device_memory_mib for found in visits.measurements),
        energy_mj=_energy_mj(visits, opened.batch),
        size_bytes=sum(artifacts[name].size for name in (cell.file, *cell.beside)),
    )


def _latency(samples: np.ndarray, figures: list[float]) -> Latency:
    p50 = float(np.median(samples))
    low, high = intervals.interval(figures)
    return Latency(
        p50=p50,
        p90=intervals.percentile(samples, 90),
        p99=intervals.percentile(samples, 99),
        mean=float(samples.mean()),
        stdev=float(samples.std(ddof=1)),
        ci95=(min(low, p50), max(high, p50)),
    )


def _throughput(visits: Visits, samples: np.ndarray, batch: int, scenario: str) -> float:
    """Images per second: while busy, or for the server of all that arrived."""
    if scenario == SERVER:
        seconds = sum(found.conditions.seconds for found in visits.measurements)
        return batch * len(samples) / seconds
    return 1000 * batch / float(samples.mean())


def _throughput_interval(
    figures: list[float], batch: int, scenario: str
) -> tuple[float, float] | None:
    if scenario != OFFLINE:
        return None
    low, high = intervals.interval(figures)
    return 1000 * batch / high, 1000 * batch / low


def _energy_mj(visits: Visits, batch: int) -> float | None:
    """Millijoules of the whole CPU for one image, ``None`` unless every round measured them."""
    joules = [found.conditions.energy_j for found in visits.measurements]
    images = batch * sum(len(found.samples) for found in visits.measurements)
    known = [value for value in joules if value is not None]
    return 1000 * sum(known) / images if len(known) == len(joules) else None


def _most(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return max(known) if known else None


def _finite(value: float) -> float | None:
    """For JSON, which has no infinities: ``None`` for equal (or non-finite) outputs."""
    return value if np.isfinite(value) else None
