"""Which cell to ship: the fastest of those whose answers hold, or why none."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass

from ...runners.targets import estimate
from ...runners.timing.plan import COLD, OFFLINE, SERVER
from ..judging.gates import default_gate
from ..judging.parity_result import ParityResult
from ..numerics.precision import kind_of
from ..numerics.ratios import MARGIN, UNDECIDED
from ..speed.bench_result import BenchResult, CellResult
from ..speed.ranking import Pick, cost, nearer, pick
from ..speed.validity import INVALID, NOISY, QUICK
from ..verdicts import FAIL, INCONCLUSIVE, PASS
from .gather import Report, Row
from .results import MISSING
from .tables.formatting import ms, number
from .text.benchmark import MORE, advantage

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
    """How fast a cell is: ms per run, or images per second offline.

    ``low`` and ``high`` are the 95 % interval, ``None`` where a single generation gives none.
    """

    value: float
    low: float | None
    high: float | None
    offline: bool = False

    def __str__(self) -> str:
        """ "p50 2.11 ms (95 % interval 1.99–2.24 ms)"."""
        unit = "images/s" if self.offline else "ms"
        show = _rate if self.offline else ms
        text = f"{'' if self.offline else 'p50 '}{show(self.value)} {unit}"
        if self.low is None or self.high is None:
            return f"{text} (one generation, no interval)"
        return f"{text} (95 % interval {show(self.low)}–{show(self.high)} {unit})"


def speed(cell: CellResult | None) -> Speed | None:
    """The speed of a cell that was measured."""
    if cell is None or cell.status != "ok":
        return None
    if cell.scenario == OFFLINE:
        if cell.throughput_per_s is None:
            return None
        low, high = cell.throughput_ci95 or (None, None)
        return Speed(cell.throughput_per_s, low, high, offline=True)
    if cell.latency_ms is None:
        return None
    low, high = cell.latency_ms.ci95 or (None, None)
    return Speed(cell.latency_ms.p50, low, high)


def choose(report: Report) -> tuple[Choice, ...]:
    """A choice for every target that bench measured on; one that says why where it did not."""
    if report.bench is None:
        return (Choice("", None, _lacking(report, BENCH)),)
    measured = [row for row in report.rows if speed(row.bench)]
    targets = list(dict.fromkeys(row.target for row in measured))
    if not targets:
        return (Choice("", None, "No recommendation: no cell could be measured."),)
    return tuple(
        _choose(report, target, [row for row in measured if row.target == target])
        for target in targets
    )


def objections(row: Row, report: Report) -> list[tuple[str, str]]:
    """What keeps a row from being recommended: what is wrong in a word, and the reasons.

    A noisy time does not, but where arrivals are random: ratios hold in spite of it.
    """
    found = []
    noisy = bool(row.bench) and row.bench.verdict == NOISY
    if row.bench is None or row.bench.status != "ok":
        found.append(("not timed", row.bench.reason or "" if row.bench else ""))
    elif row.bench.verdict == INVALID or (row.bench.scenario == SERVER and noisy):
        found.append((f"{row.bench.verdict} timing", "; ".join(row.bench.notes)))
    elif report.bench and report.bench.quick:
        found.append(("quick timing", QUICK))
    if row.parity is None:
        found.append(("parity not judged", ""))
    elif row.parity.verdict != PASS:
        verdict = row.parity.verdict or row.parity.status
        found.append((f"parity {verdict}", row.parity.reason or ""))
    elif (judge := _cpu(report.parity, row.target)) != _cpu(report.bench, row.target):
        found.append(("parity judged on another CPU", judge))
    if row.accuracy and row.accuracy.verdict == FAIL:
        found.append(("accuracy fail", row.accuracy.reason or ""))
    return found


def _choose(report: Report, target: str, rows: list[Row]) -> Choice:
    ranked = sorted(rows, key=lambda row: cost(row.bench) if row.bench else math.inf)
    good = [row for row in ranked if not objections(row, report)]
    place = "" if target == "local" else f"On {target}: "
    isa = report.hosts.get(target, {}).get("isa")
    if isa:
        place = f"On {target}, an {estimate(isa)}. "
    if not good:
        return Choice(target, None, place + _none(report, ranked))
    assert report.bench
    timed = {id(row.bench): row for row in good}
    parity_db = {id(row.bench): row.parity.sqnr_db for row in good if row.parity}
    # By parity, which has more samples than bench checks.
    found = pick(
        report.bench,
        [row.bench for row in good if row.bench],
        lambda cell: parity_db[id(cell)],
    )
    best = timed[id(found.row)]
    others = [row for row in good if row is not best]
    faster = advantage(found.row, report.bench.reference)
    figures = ", ".join(one for one in (faster, str(speed(found.row)), _sqnr(best)) if one)
    if isa:
        text = f"No recommendation; the fastest that passes: {best.name()}, {figures}."
        return Choice(target, None, place + text)
    if found.row.against_reference == UNDECIDED:
        text = f"No recommendation: {best.name()} is the fastest that passes, {faster}"
        return Choice(target, None, f"{place}{text}; {MORE} would decide it.")
    rank = (
        f"the fastest of the {len(good)} cells that pass" if others else "the only cell that passes"
    )
    if found.row is not found.fastest:
        fastest = timed[id(found.fastest)].name()
        faithful = nearer(parity_db[id(found.row)], parity_db[id(found.fastest)])
        rank = f"as fast as {fastest}, the fastest of the {len(good)} cells that pass, and "
        rank += "nearer to the original" if faithful else "not larger"
    sentence = f"{best.name()} is {rank}: {figures}."
    return Choice(target, best, sentence, tuple(_caveats(report, found, best, others)))


def _none(report: Report, ranked: list[Row]) -> str:
    """Why no row qualifies, and how near the nearest one came."""
    if report.parity is None:
        text = _lacking(report, PARITY)
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


def _caveats(report: Report, found: Pick, best: Row, others: list[Row]) -> list[str]:
    assert best.bench
    assert best.parity
    assert report.parity
    caveats = []
    if not report.manifest.model["trained"]:
        caveats.append("The weights are untrained: its speed counts, its answers mean nothing.")
    if best.bench.scenario == SERVER:
        caveats.append(f"Under random arrivals, {best.bench.rate:g} runs a second.")
    if best.bench.scenario == COLD:
        caveats.append("Of runs now and then: the pool slept, the caches held other data.")
    if best.bench.tuned:
        caveats.append(f"It runs with the settings that tune recommends{_tuned_on(report, best)}.")
    names = {id(row.bench): row.name() for row in others}
    equals = [names[id(row)] for row in found.as_fast]
    if equals:
        caveats.append(f"As fast, within {MARGIN:.0%}: {_listed(equals)}.")
    if found.undecided:
        listed = _listed([names[id(row)] for row in found.undecided])
        caveats.append(f"The ratios do not tell the fastest from {listed}: {MORE} would.")
    quantized = bool(report.manifest.model.get("quantized"))
    kind = kind_of(best.variant, best.precision or "", quantized)
    default = default_gate(kind, report.parity.reference)
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


def _cpu(result: BenchResult | ParityResult | None, target: str) -> str:
    return str(result.hosts.get(target, {}).get("cpu", "unknown")) if result else "unknown"


def _tuned_on(report: Report, row: Row) -> str:
    """On which other CPU than bench's, if it was one."""
    assert row.bench
    found = report.manifest.recommendation(row.bench.key)
    cpu = found.evidence.get("cpu") if found else None
    same = cpu in (None, _cpu(report.bench, row.target))
    return "" if same else f", found on another CPU ({cpu})"


def _lacking(report: Report, file: str) -> str:
    source = report.source(file)
    why = {BENCH: "nothing was timed yet", PARITY: "the outputs were not judged yet"}[file]
    if source.state != MISSING:
        why = f"{file} is out of date ({source.reason})"
    return f"No recommendation: {why}; run {source.command}."


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
