"""What a page says of tune: what it recommends, what it tried, where nothing won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...speed.tune import MIN_GAIN, RECOMMENDED, Tuned
from ...storage.manifest import Recommendation
from ..gather import Report
from ..tables.formatting import settings
from ..tables.table import Table
from ..text import tuning
from ..text.tuning import name

EARLIER = "by an earlier search; what it tried is not kept"


def section(report: Report) -> dict[str, Any]:
    """What the templates take."""
    return {
        "outcomes": outcomes(report),
        "reasons": reasons(report),
        "trials": [tuning.trials(cell) for cell in _searched(report) if cell.trials],
        "fallen": fallen(report),
        "least": f"{1 / (1 - MIN_GAIN):.2f}",
    }


def outcomes(report: Report) -> Table | None:
    """A row for each cell that was searched, then what earlier searches recommend."""
    budget = f", {report.tuning.budget:g} s for all cells" if report.tuning else ""
    caption = f"Settings that beat the defaults, if any do{budget}"
    found = tuning.outcomes([*_searched(report), *_kept(report)], caption)
    return found if found.rows else None


def reasons(report: Report) -> list[tuple[str, str]]:
    """Why there is no recommendation, or which one may not hold, by the names of the cells."""
    found: dict[str, list[str]] = {}
    for cell in _searched(report):
        if cell.verdict != RECOMMENDED and cell.reason:
            word = "" if cell.status == "ok" else f"{cell.status}: "
            found.setdefault(word + cell.reason, []).append(name(cell))
        if elsewhere := _elsewhere(report, cell.target, _host(report, cell.target).get("cpu")):
            found.setdefault(elsewhere, []).append(name(cell))
    for kept in _kept(report):
        found.setdefault(f"recommended {EARLIER}", []).append(name(kept))
        if elsewhere := _elsewhere(report, kept.target, kept.evidence.get("cpu")):
            found.setdefault(elsewhere, []).append(name(kept))
    return [(", ".join(names), why) for why, names in found.items()]


def fallen(report: Report) -> list[tuple[str, str]]:
    """Why candidates fell out, by cell and settings."""
    return [
        (f"{name(cell)}, {settings(trial.settings)}", trial.reason)
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


def _host(report: Report, target: str) -> Mapping[str, Any]:
    return report.tuning.hosts.get(target, {}) if report.tuning else {}


def _elsewhere(report: Report, target: str, cpu: str | None) -> str:
    """That the search and bench saw different machines, if they did."""
    bench = report.bench_cpu(target)
    if None in (bench, cpu) or bench == cpu:
        return ""
    return f"tuned on another CPU ({cpu}) than bench's ({bench}); run `edgepipe tune` again"
