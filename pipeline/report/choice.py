"""Which cell to ship: the fastest of those whose timing and outputs both hold, or why none."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from ...runners.targets import estimate
from ...runners.timing.plan import OFFLINE, SERVER
from ..judging.gates import default_gate
from ..judging.parity_result import ParityResult
from ..numerics.precision import kind_of
from ..speed.bench_result import BenchResult, CellResult
from ..speed.validity import VALID
from ..verdicts import FAIL, INCONCLUSIVE, PASS
from .gather import Report, Row
from .results import MISSING, Source
from .text.formatting import ms, number

BENCH, PARITY = BenchResult.FILE, ParityResult.FILE


@dataclass(frozen=True)
class Choice:
    """For one target: the recommended row or ``None``, a sentence, and what limits it."""

    target: str
    row: Row | None
    sentence: str
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speed:
    """What cells of a scenario are ranked by: ms per run, or images per second offline.

    ``low`` and ``high`` are the 95 % interval, ``None`` where a single round gives none.
    """

    value: float
    low: float | None
    high: float | None
    offline: bool = False

    @property
    def cost(self) -> float:
        """Sorts the fastest first."""
        return -self.value if self.offline else self.value

    def overlaps(self, other: Speed) -> bool:
        """Whether the intervals can't tell the two apart."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        """ "p50 2.11 ms (95 % interval 1.99–2.24 ms)"."""
        unit = "images/s" if self.offline else "ms"
        show = _rate if self.offline else ms
        text = f"{'' if self.offline else 'p50 '}{show(self.value)} {unit}"
        if self.low is None or self.high is None:
            return f"{text} (one round, no interval)"
        return f"{text} (95 % interval {show(self.low)}–{show(self.high)} {unit})"


def speed(cell: CellResult | None) -> Speed | None:
    """The speed of a cell that was measured."""
    if cell is None or cell.status != "ok":
        return None
    known = cell.rounds >= 2
    if cell.scenario == OFFLINE:
        if cell.throughput_per_s is None:
            return None
        low, high = cell.throughput_ci95 if known and cell.throughput_ci95 else (None, None)
        return Speed(cell.throughput_per_s, low, high, offline=True)
    if cell.latency_ms is None:
        return None
    low, high = cell.latency_ms.ci95 if known else (None, None)
    return Speed(cell.latency_ms.p50, low, high)


def choose(report: Report) -> tuple[Choice, ...]:
    """A choice for every target that bench measured on; one that says why where it did not."""
    if report.bench is None:
        source = report.source(BENCH)
        return (Choice("", None, f"No recommendation: {_lacking(report, BENCH)}; {_run(source)}."),)
    measured = [row for row in report.rows if speed(row.bench)]
    targets = list(dict.fromkeys(row.target for row in measured))
    if not targets:
        return (Choice("", None, "No recommendation: no cell could be measured."),)
    return tuple(
        _choose(report, target, [row for row in measured if row.target == target])
        for target in targets
    )


def objections(row: Row, report: Report) -> list[tuple[str, str]]:
    """What keeps a row from being recommended: what is wrong in a word, and the reasons."""
    found = []
    if row.bench is None or row.bench.status != "ok":
        found.append(("not timed", row.bench.reason or "" if row.bench else ""))
    elif row.bench.verdict != VALID:
        found.append((f"{row.bench.verdict} timing", "; ".join(row.bench.notes)))
    if row.parity is None:
        found.append(("parity not judged", ""))
    elif row.parity.verdict != PASS:
        verdict = row.parity.verdict or row.parity.status
        found.append((f"parity {verdict}", row.parity.reason or ""))
    elif _cpu(report, PARITY, row.target) != _cpu(report, BENCH, row.target):
        found.append(("parity judged on another CPU", _cpu(report, PARITY, row.target)))
    if row.accuracy and row.accuracy.verdict == FAIL:
        found.append(("accuracy fail", row.accuracy.reason or ""))
    return found


def _choose(report: Report, target: str, rows: list[Row]) -> Choice:
    ranked = sorted(rows, key=_cost)
    good = [row for row in ranked if not objections(row, report)]
    place = "" if target == "local" else f"On {target}: "
    isa = report.hosts.get(target, {}).get("isa")
    if isa:
        place = f"On {target}, an {estimate(isa)}. "
    if not good:
        return Choice(target, None, place + _none(report, ranked))
    best, others = good[0], good[1:]
    if isa:
        found = f"{best.variant} on {best.runner}, {speed(best.bench)}, {_sqnr(best)}"
        return Choice(target, None, f"{place}No recommendation; the fastest that passes: {found}.")
    rank = (
        f"the fastest of the {len(good)} cells that pass" if others else "the only cell that passes"
    )
    found, sqnr = speed(best.bench), _sqnr(best)
    sentence = f"{best.name()} is {rank}: {found}, {sqnr}."
    return Choice(target, best, sentence, tuple(_caveats(report, best, others)))


def _none(report: Report, ranked: list[Row]) -> str:
    """Why no row qualifies, and how near the nearest one came."""
    if report.parity is None:
        text = f"No recommendation: {_lacking(report, PARITY)}; {_run(report.source(PARITY))}."
    else:
        counts = Counter(word for row in ranked for word, _ in objections(row, report)[:1])
        reasons = ", ".join(f"{count} × {word}" for word, count in counts.items())
        cells = "the one cell" if len(ranked) == 1 else f"none of the {len(ranked)} cells"
        verb = "is not both" if len(ranked) == 1 else "is both"
        text = f"No recommendation: {cells} measured {verb} valid and faithful ({reasons})."
    faithful = [row for row in ranked if row.parity and row.parity.verdict == PASS]
    if not faithful:
        return text
    nearest = faithful[0]
    against = "; ".join(
        f"{word} ({why})" if why else word for word, why in objections(nearest, report)
    )
    return (
        f"{text} The fastest that passes parity is {nearest.name()}, {speed(nearest.bench)}, "
        f"{_sqnr(nearest)}, but: {against}."
    )


def _caveats(report: Report, best: Row, others: list[Row]) -> list[str]:
    assert best.bench
    assert best.parity
    assert report.parity
    caveats = []
    if not report.manifest.model["trained"]:
        caveats.append("The weights are untrained: its speed counts, its answers mean nothing.")
    if best.bench.scenario == SERVER:
        caveats.append(f"Under random arrivals, {best.bench.rate:g} runs a second.")
    if best.bench.tuned:
        caveats.append(f"It runs with the settings that tune recommends{_tuned_on(report, best)}.")
    mine = speed(best.bench)
    equals = [
        row.name() for row in others if mine and (it := speed(row.bench)) and mine.overlaps(it)
    ]
    if equals:
        caveats.append(f"The intervals do not tell it from {_listed(equals)}.")
    default = default_gate(kind_of(best.variant, best.precision or ""), report.parity.reference)
    if best.parity.gate != asdict(default):
        caveats.append("Its parity gate is not the default one.")
    elsewhere = [
        row.runner if row.target == "local" else f"{row.runner} at {row.target}"
        for row in report.rows
        if row.variant == best.variant and row.parity and row.parity.verdict == FAIL
    ]
    if elsewhere:
        caveats.append(f"{best.variant} fails parity on {_listed(elsewhere)}.")
    if best.accuracy and best.accuracy.verdict == INCONCLUSIVE:
        caveats.append(f"Its accuracy is inconclusive: {best.accuracy.reason}.")
    if best.bench.comparison and best.bench.comparison.verdict != PASS:
        caveats.append(f"Against the baseline: {best.bench.comparison.verdict}.")
    unmeasured = [
        variant
        for variant in report.manifest.variants
        if not any(row.variant == variant and speed(row.bench) for row in report.rows)
    ]
    if unmeasured:
        caveats.append(f"Not measured: {_listed(unmeasured)}.")
    return caveats


def _sqnr(row: Row) -> str:
    parity = row.parity
    assert parity
    if parity.sqnr_db is None:
        return "outputs bit for bit torch's" if parity.max_abs == 0 else "SQNR not known"
    least = number(parity.gate.get("min_sqnr_db"), ".1f")
    return f"SQNR {parity.sqnr_db:.1f} dB (parity asks for {least})"


def _cost(row: Row) -> float:
    found = speed(row.bench)
    return found.cost if found else float("inf")


def _cpu(report: Report, file: str, target: str) -> str:
    result = report.bench if file == BENCH else report.parity
    return str(result.hosts.get(target, {}).get("cpu", "unknown")) if result else "unknown"


def _tuned_on(report: Report, row: Row) -> str:
    """On which other CPU than bench's, if it was one."""
    assert row.bench
    found = report.manifest.recommendation(row.bench.key)
    cpu = found.evidence.get("cpu") if found else None
    same = cpu in (None, _cpu(report, BENCH, row.target))
    return "" if same else f", found on another CPU ({cpu})"


def _lacking(report: Report, file: str) -> str:
    source = report.source(file)
    what = {BENCH: "nothing was timed yet", PARITY: "the outputs were not judged yet"}[file]
    return what if source.state == MISSING else f"{file} is out of date ({source.reason})"


def _run(source: Source) -> str:
    return f"run {source.command}"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
