"""What bench found out: a row for each cell, with its figures taken from its generations."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...runners.base import PlacementError, RunnerError
from ...runners.timing.plan import OFFLINE, SERVER, SINGLE_STREAM
from ..cells.row import CellRow
from ..cells.session import Cell
from ..errors import ExitCode
from ..numerics import intervals, ratios
from ..numerics.ratios import FASTER, FEWEST, SAME, SLOWER, UNDECIDED, Ratio, over_generations
from ..settings.judging import CellsConfig
from ..storage.document import UNWRITTEN, Result
from ..storage.manifest import CellKey
from ..verdicts import FAIL, INCONCLUSIVE, PASS, code_of
from .validity import INVALID, NOISY
from .visits import Entry, Visits, streams_in

SAMPLES = "bench.npz"


@dataclass(frozen=True)
class Latency:
    """ms per run. A percentile that the samples can't carry is ``None``.

    ``p50`` is the geometric mean of the generations' figures, which are medians of their slices'
    medians; ``ci95`` is its interval over the generations, ``None`` of a single one. The others are
    of all samples.
    """

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    stdev: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """New time for a run divided by the old one, with its 95 % interval.

    The verdict is "fail" if all of the interval is above ``1 + max_slowdown``, "pass" if none
    of it is, "inconclusive" otherwise or with a ``reason`` why the two can't be compared.
    """

    verdict: str
    max_slowdown: float
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    baseline_ms: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class CellResult(CellRow):
    """A cell's row in ``bench.json``. Figures are ``None`` unless ``status`` is "ok".

    ``generation_ms`` is what each generation says (see ``Visits.figures``), ``in_meters`` the same
    in runs of the meter; throughput is in images per second. ``speedup`` is the time of the
    reference variant with the same settings divided by this one's, ``against_reference`` says
    whether that is "faster", "slower", the "same" or "undecided" (see ``ratios.verdict``).
    ``build_ms`` is what building its engine took, once, of a runner that does so.
    ``on_device_ms`` is p50 of a run whose inputs and outputs stay in the device's memory, where the
    runner has such a run: all other times are from the host's memory to the host's.
    ``verdict`` is about the absolute figures: "valid", "noisy" or "invalid". ``energy_mj`` is for
    one image, and the whole CPU's. Latencies are ``None`` offline, where only throughput counts.
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
    generations: int = 0
    generation_ms: tuple[float, ...] = ()
    in_meters: tuple[float, ...] = ()
    throughput_per_s: float | None = None
    throughput_ci95: tuple[float, float] | None = None
    speedup: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    against_reference: str | None = None
    comparison: Comparison | None = None
    sqnr_db: float | None = None
    load_ms: float | None = None
    load_ms_ci95: tuple[float, float] | None = None
    load_cached_ms: float | None = None
    load_cached_ms_ci95: tuple[float, float] | None = None
    build_ms: float | None = None
    first_inference_ms: float | None = None
    first_inference_ms_ci95: tuple[float, float] | None = None
    peak_rss_mib: float | None = None
    on_device_ms: float | None = None
    on_device_ms_ci95: tuple[float, float] | None = None
    device_memory_mib: float | None = None
    energy_mj: float | None = None
    size_bytes: int | None = None

    @property
    def key(self) -> CellKey:
        """What a recommendation for this cell is kept under."""
        device, precision = self.device or "", self.precision or ""
        return CellKey(self.variant, self.runner, self.target, device, precision, self.scenario)


@dataclass(frozen=True)
class Pair:
    """How the cells of two rows compare, by their places in ``cells``.

    ``ratio`` is the time of ``row`` divided by that of ``against``; the ``verdict`` is that of
    ``row``: see ``ratios.verdict``.
    """

    against: int
    row: int
    ratio: float
    ci95: tuple[float, float] | None
    verdict: str

    @classmethod
    def of(cls, against: int, row: int, ratio: Ratio) -> Pair:
        """A ratio of times, with what it says of ``row``."""
        return cls(against, row, ratio.value, ratio.ci95, ratios.verdict(ratio.inverse))

    @property
    def turned(self) -> Pair:
        """The same the other way round."""
        ends = self.ci95 and (1 / self.ci95[1], 1 / self.ci95[0])
        verdict = {FASTER: SLOWER, SLOWER: FASTER}.get(self.verdict, self.verdict)
        return Pair(self.row, self.against, 1 / self.ratio, ends, verdict)


@dataclass(frozen=True)
class BenchResult(Result):
    """What bench measured. ``hosts`` are the machines by target, ``host`` the first one.

    ``reference`` is the variant that rows are held against, ``pairs`` are how every two rows
    compare that took turns, ``meters`` what ``in_meters`` counts, by target. ``problems`` are
    failures that belong to no cell.
    """

    SCHEMA = 2

    FILE = "bench.json"
    MADE_BY = "edgepipe bench"

    model: Mapping[str, Any]
    host: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    scenario: str
    quick: bool
    baseline: str | None
    reference: str
    cells: tuple[CellResult, ...]
    pairs: tuple[Pair, ...]
    meters: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)
    # Each cell's raw samples, a generation after the other, in ns: see ``samples_file``.
    samples: tuple[tuple[np.ndarray, ...], ...] = field(default=(), metadata=UNWRITTEN)
    cycle_ms: tuple[np.ndarray, ...] = field(default=(), metadata=UNWRITTEN)

    def pair(self, row: CellResult, against: CellResult) -> Pair | None:
        """How one row compares with another, if they took turns."""
        places = (self.cells.index(against), self.cells.index(row))
        for pair in self.pairs:
            if (pair.against, pair.row) == places:
                return pair
            if (pair.row, pair.against) == places:
                return pair.turned
        return None

    def samples_file(self) -> bytes:
        """The raw samples as a compressed ``.npz``.

        ``N`` holds those of row N of ``cells``, int64 ns, and ``N.generations`` how many of them
        each generation took; ``N.cycle_ms`` are ms for a run of ``[turn, cycle]``, NaN where it had
        no turn: the ratio of two rows is made from these.
        """
        arrays: dict[str, np.ndarray] = {}
        for number, generations in enumerate(self.samples):
            if generations:
                arrays[f"{number}"] = np.concatenate(generations)
                arrays[f"{number}.generations"] = np.array([len(part) for part in generations])
        for number, cycle_ms in enumerate(self.cycle_ms):
            if len(cycle_ms):
                arrays[f"{number}.cycle_ms"] = cycle_ms
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()


def compare(ratio: Ratio | None, max_slowdown: float, baseline_ms: float) -> Comparison:
    """Judge new/old; ``None`` where the two never met."""
    generations = ratio.generations if ratio else 0
    if ratio is None or generations < FEWEST:
        reason = f"too few generations: {generations}, {FEWEST} needed"
        return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)
    limit = 1 + max_slowdown
    verdict = FAIL if ratio.low > limit else PASS if ratio.high <= limit else INCONCLUSIVE
    return Comparison(verdict, max_slowdown, ratio.value, ratio.ci95, baseline_ms)


def unmet(
    rows: Sequence[CellResult], required: Sequence[str], reference: str, *, quick: bool
) -> list[tuple[str, str]]:
    """What of the rows is not as ``required``, each with the verdict on it: see ``BenchConfig``."""
    found = []
    by_ratio = {"decided", "faster"} & set(required)
    for row in rows:
        if row.status != "ok":
            continue
        name, relative = f"{row.variant} / {row.runner}", row.against_reference
        if "valid" in required and row.verdict == NOISY:
            found.append((f"{name}: noisy, valid is required", INCONCLUSIVE))
        if not by_ratio or row.variant == reference:
            continue
        if relative is None:
            found.append((f"{name}: there is no {reference} to hold it against", INCONCLUSIVE))
        elif quick or relative == UNDECIDED:
            why = "a quick bench decides nothing" if quick else f"undecided against {reference}"
            found.append((f"{name}: {why}", INCONCLUSIVE))
        elif "faster" in required and relative in (SAME, SLOWER):
            said = "as fast as" if relative == SAME else "slower than"
            found.append((f"{name}: {said} {reference}, faster is required", FAIL))
    return found


def exit_code(
    rows: Sequence[CellResult], section: CellsConfig, more: Sequence[str] = ()
) -> ExitCode:
    """``code_of`` the comparisons with a baseline; a row that is invalid has failed a gate.

    ``more`` are other verdicts.
    """
    verdicts = [*more, *(row.comparison.verdict for row in rows if row.comparison)]
    verdicts += [FAIL for row in rows if row.verdict == INVALID]
    return code_of(verdicts, rows, section.runners)


def failed_row(cell: Cell, scenario: str, error: RunnerError) -> CellResult:
    """The row of a cell without figures."""
    verdict = INVALID if isinstance(error, PlacementError) else None
    return CellResult.failed(cell, error, verdict=verdict, scenario=scenario, batch=cell.batch)


def measured_row(entry: Entry, visits: Visits, scenario: str, rate: float | None) -> CellResult:
    """The row of a cell that had its turns, without a verdict."""
    cell, opened = entry.cell, visits.opened[0]
    artifacts = entry.source.manifest.artifacts
    figures = visits.figures()
    typical, load, first = map(over_generations_ms, (figures, visits.load_ms, visits.first_ms))
    cached = over_generations_ms(visits.cached_ms) if visits.cached_ms else None
    on_device = [one.on_device_ms for one in visits.measurements if one.on_device_ms is not None]
    resident = over_generations_ms(on_device) if on_device else None
    samples = np.concatenate(visits.samples()) / 1e6
    return CellResult.ran(
        cell,
        opened.loaded,
        scenario=scenario,
        rate=rate if scenario == SERVER else None,
        streams=streams_in(visits),
        batch=opened.batch,
        options=dict(cell.options),
        tuned=cell.tuned,
        latency_ms=None if scenario == OFFLINE else _latency(samples, typical),
        samples=len(samples),
        generations=len(figures),
        generation_ms=tuple(figures),
        throughput_per_s=_throughput(visits, samples, typical, opened.batch, scenario),
        throughput_ci95=_throughput_interval(typical, opened.batch, scenario),
        sqnr_db=_finite(visits.sqnr_db[0]),
        load_ms=load.value,
        load_ms_ci95=load.ci95,
        load_cached_ms=cached.value if cached else None,
        load_cached_ms_ci95=cached.ci95 if cached else None,
        build_ms=opened.loaded.build_ms,
        first_inference_ms=first.value,
        first_inference_ms_ci95=first.ci95,
        peak_rss_mib=max(visits.peak_rss_mib),
        on_device_ms=resident.value if resident else None,
        on_device_ms_ci95=resident.ci95 if resident else None,
        device_memory_mib=_most(found.device_memory_mib for found in visits.measurements),
        energy_mj=_energy_mj(visits, opened.batch),
        size_bytes=sum(artifacts[name].size for name in (cell.file, *cell.beside)),
    )


def over_generations_ms(figures: Sequence[float]) -> Ratio:
    """Times, one of each generation, as one with its interval: see ``ratios``."""
    return over_generations(np.log(figures).tolist())


def _latency(samples: np.ndarray, typical: Ratio) -> Latency:
    return Latency(
        p50=typical.value,
        p90=intervals.percentile(samples, 90),
        p99=intervals.percentile(samples, 99),
        mean=float(samples.mean()),
        stdev=float(samples.std(ddof=1)),
        ci95=typical.ci95,
    )


def _throughput(
    visits: Visits, samples: np.ndarray, typical: Ratio, batch: int, scenario: str
) -> float:
    """Images per second: while busy, offline as p50 elsewhere, for the server of all that came."""
    if scenario == SERVER:
        seconds = sum(found.conditions.seconds for found in visits.measurements)
        return batch * len(samples) / seconds
    return 1000 * batch / (typical.value if scenario == OFFLINE else float(samples.mean()))


def _throughput_interval(typical: Ratio, batch: int, scenario: str) -> tuple[float, float] | None:
    if scenario != OFFLINE or typical.ci95 is None:
        return None
    return 1000 * batch / typical.high, 1000 * batch / typical.low


def _energy_mj(visits: Visits, batch: int) -> float | None:
    """Millijoules of the whole CPU for one image, ``None`` unless all generations have them."""
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
