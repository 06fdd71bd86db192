"""What tune found, as tables: what it recommends and what it tried; and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any

from ....runners.timing.plan import SINGLE_STREAM
from ...speed.tune import RECOMMENDED, Trial, Tuned, TuneResult
from ...storage.manifest import Recommendation
from ..tables.formatting import NONE, WIDTH, interval, moment, ms, number, settings
from ..tables.formatting import text as shown
from ..tables.table import Column, Table, Verdict, figure

REFUSED, NOT_FASTER, NO_FINALIST = "refused", "not faster", "not in the final"
Known = Mapping[str, Any]


def _faster(known: Known) -> str:
    """How many times as fast as the default, where tune keeps times divided by the default's."""
    ratio = known.get("ratio")
    return number(1 / ratio if ratio else None, ".3f")


def _interval(known: Known) -> str:
    ends = known.get("ci95")
    return interval(ends and (1 / ends[1], 1 / ends[0]), "{:.3f}".format)


SETTINGS = Column("settings", lambda known: settings(known["settings"]) or NONE)
VERDICT = Column("verdict", lambda known: Verdict(known["word"]))
FASTER = figure("× as fast", _faster)
INTERVAL = figure("95 % interval", _interval)
OUTCOMES = (
    *(Column("cell", lambda known: known["name"]), VERDICT, SETTINGS),
    figure("default ms", lambda known: ms(known.get("default_ms")), "default"),
    figure("tuned ms", lambda known: ms(known.get("tuned_ms")), "tuned"),
    *(FASTER, INTERVAL),
    Column("tried", lambda known: number(known.get("candidates"), "d"), figure=True, wide=True),
    Column("seconds", lambda known: number(known.get("seconds"), ".0f"), figure=True, wide=True),
    Column("when", lambda known: moment(known.get("measured")), wide=True),
)
TRIALS = (
    SETTINGS,
    VERDICT,
    FASTER,
    INTERVAL,
    figure("generations", lambda known: str(known["generations"])),
)


def text(result: TuneResult) -> str:
    """What tune recommends for each cell, and why it doesn't for the others."""
    lines = []
    for cell in result.cells:
        place = "/".join(part for part in (cell.variant, cell.runner, cell.target) if part)
        state = "" if cell.status == "ok" else f"{cell.status}: "
        line = f"{place}: {state}{cell.reason}"
        lines += wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")
    found = outcomes(cell for cell in result.cells if cell.status != "unavailable")
    about = f"  ms an image, {result.cells[0].scenario}; {result.seconds:.0f} s"
    return shown(*([found.text()] if found.rows else []), *lines, about)


def outcomes(cells: Iterable[Tuned | Recommendation], caption: str = "") -> Table:
    """A row for each cell that was searched, or that an earlier search recommends settings for."""
    return Table.of(OUTCOMES, map(_known, cells), caption)


def trials(cell: Tuned) -> Table:
    """Everything that was tried: who was in the final, then the fastest."""
    rows = ({**vars(one), "word": _word(cell, one)} for one in sorted(cell.trials, key=_rank))
    took = number(cell.seconds, ".0f")
    return Table.of(TRIALS, rows, f"{name(cell)}: {len(cell.trials)} tried in {took} s")


def name(cell: Tuned | Recommendation) -> str:
    """ "int8 · ort-cpu", with what is out of the ordinary."""
    found = f"{cell.variant} · {cell.runner}"
    if cell.scenario != SINGLE_STREAM:
        found += f", {cell.scenario}"
    return found if cell.target == "local" else f"{found} at {cell.target}"


def _known(cell: Tuned | Recommendation) -> Known:
    """A row: of tune's document, or of the evidence that a manifest has."""
    about = {"name": name(cell), "settings": cell.settings}
    if isinstance(cell, Recommendation):
        return {**cell.evidence, **about, "word": RECOMMENDED}
    word = cell.verdict or cell.status
    return {**vars(cell), **about, "word": word, "candidates": len(cell.trials)}


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
