"""What tune found, as tables and lines: what it recommends, what it tried, where nothing won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....runners.timing.plan import SINGLE_STREAM
from ...speed.tune import MIN_GAIN, RECOMMENDED, Trial, Tuned
from ...storage.manifest import Recommendation
from ..gather import Report
from ..text.formatting import moment, ms, number, settings
from ..text.table import NONE, Column, Table, Verdict

REFUSED, NOT_FASTER, NO_FINALIST = "refused", "not faster", "not in the final"
EARLIER = "by an earlier search; what it tried is not kept"
_RATIOS = (Column("× as fast", figure=True), Column("95 % interval", figure=True))


def section(report: Report) -> dict[str, Any]:
    """What the templates take."""
    return {
        "outcomes": outcomes(report),
        "reasons": reasons(report),
        "trials": trials(report),
        "fallen": fallen(report),
        "least": f"{1 / (1 - MIN_GAIN):.2f}",
    }


def outcomes(report: Report) -> Table | None:
    """A row for each cell that was searched, then what earlier searches recommend."""
    rows = [_outcome(cell) for cell in _searched(report)]
    rows += [_earlier(found) for found in _kept(report)]
    columns = (
        Column("cell"),
        Column("verdict"),
        Column("settings"),
        Column("default ms", figure=True),
        Column("tuned ms", figure=True),
        *_RATIOS,
        Column("tried", figure=True),
        Column("seconds", figure=True),
        Column("when"),
    )
    budget = f", {report.tuning.budget:g} s for all cells" if report.tuning else ""
    caption = f"Settings that beat the defaults, if any do{budget}"
    return Table(caption, columns, tuple(rows)) if rows else None


def trials(report: Report) -> list[Table]:
    """Everything that was tried, a table for each cell: who was in the final, then the fastest."""
    columns = (Column("settings"), Column("verdict"), *_RATIOS, Column("generations", figure=True))
    return [
        Table(
            f"{_name(cell)}: {len(cell.trials)} tried in {number(cell.seconds, '.0f')} s",
            columns,
            tuple(_trial(cell, trial) for trial in sorted(cell.trials, key=_rank)),
        )
        for cell in _searched(report)
        if cell.trials
    ]


def reasons(report: Report) -> list[tuple[str, str]]:
    """Why there is no recommendation, or which one may not hold, by the names of the cells."""
    found: dict[str, list[str]] = {}
    for cell in _searched(report):
        if cell.verdict != RECOMMENDED and cell.reason:
            word = "" if cell.status == "ok" else f"{cell.status}: "
            found.setdefault(word + cell.reason, []).append(_name(cell))
        if elsewhere := _elsewhere(report, cell.target, _host(report, cell.target).get("cpu")):
            found.setdefault(elsewhere, []).append(_name(cell))
    for kept in _kept(report):
        found.setdefault(f"recommended {EARLIER}", []).append(_name(kept))
        if elsewhere := _elsewhere(report, kept.target, kept.evidence.get("cpu")):
            found.setdefault(elsewhere, []).append(_name(kept))
    return [(", ".join(names), why) for why, names in found.items()]


def fallen(report: Report) -> list[tuple[str, str]]:
    """Why candidates fell out, by cell and settings."""
    return [
        (f"{_name(cell)}, {settings(trial.settings)}", trial.reason)
        for cell in _searched(report)
        for trial in cell.trials
        if trial.reason
    ]


def _searched(report: Report) -> Sequence[Tuned]:
    return [cell for cell in report.tuning.cells if cell.variant] if report.tuning else []


def _kept(report: Report) -> list[Recommendation]:
    """What the manifest recommends and the last search did not: it was about other cells."""
    fresh = {cell.key for cell in _searched(report) if cell.verdict == RECOMMENDED}
    return [found for found in report.manifest.recommended if found.key not in fresh]


def _name(cell: Tuned | Recommendation) -> str:
    name = f"{cell.variant} · {cell.runner}"
    if cell.scenario != SINGLE_STREAM:
        name += f", {cell.scenario}"
    return name if cell.target == "local" else f"{name} at {cell.target}"


def _outcome(cell: Tuned) -> tuple[str | Verdict, ...]:
    word = cell.verdict or cell.status
    tried, seconds = str(len(cell.trials)), number(cell.seconds, ".0f")
    return (_name(cell), *_figures(word, vars(cell)), tried, seconds, moment(cell.measured))


def _earlier(found: Recommendation) -> tuple[str | Verdict, ...]:
    evidence = {**found.evidence, "settings": found.settings}
    tried = evidence.get("candidates")
    return (
        _name(found),
        *_figures(RECOMMENDED, evidence),
        NONE if tried is None else str(tried),
        number(evidence.get("seconds"), ".0f"),
        moment(evidence.get("measured")),
    )


def _figures(word: str, known: Mapping[str, Any]) -> tuple[str | Verdict, ...]:
    """Verdict, settings, times and their ratio: of a row of tune's or of a manifest's evidence."""
    times = (known.get(name) for name in ("default_ms", "tuned_ms"))
    return (
        Verdict(word),
        settings(known["settings"]) or NONE,
        *map(ms, times),
        *_faster(known.get("ratio"), known.get("ci95")),
    )


def _trial(cell: Tuned, trial: Trial) -> tuple[str | Verdict, ...]:
    ratios = _faster(trial.ratio, trial.ci95)
    return (settings(trial.settings), Verdict(_word(cell, trial)), *ratios, str(trial.generations))


def _word(cell: Tuned, trial: Trial) -> str:
    """What became of a candidate."""
    if trial.ratio is None:
        return REFUSED
    if trial.reason:  # the parity gate's
        return trial.reason.partition(":")[0]
    if trial.ci95:  # it was in the final
        return "not significantly faster" if cell.verdict == "default" else cell.verdict or ""
    return NOT_FASTER if trial.ratio >= 1 else NO_FINALIST


def _rank(trial: Trial) -> tuple[bool, float]:
    return trial.ci95 is None, float("inf") if trial.ratio is None else trial.ratio


def _faster(ratio: float | None, ci95: Sequence[float] | None) -> tuple[str, str]:
    """How many times as fast as the default, where tune keeps times divided by the default's."""
    interval = f"{1 / ci95[1]:.3f}–{1 / ci95[0]:.3f}" if ci95 else NONE
    return number(1 / ratio if ratio else None, ".3f"), interval


def _host(report: Report, target: str) -> Mapping[str, Any]:
    return report.tuning.hosts.get(target, {}) if report.tuning else {}


def _elsewhere(report: Report, target: str, cpu: str | None) -> str:
    """That the search and bench saw different machines, if they did."""
    bench = report.bench_cpu(target)
    if None in (bench, cpu) or bench == cpu:
        return ""
    return f"tuned on another CPU ({cpu}) than bench's ({bench}); run `edgepipe tune` again"
