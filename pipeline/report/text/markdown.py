"""Parity and accuracy as Markdown, for the summary page of a CI job."""

from __future__ import annotations

from collections.abc import Sequence

from ...judging.evaluate_result import CellAccuracy, EvaluationResult
from ...judging.parity_result import CellVerdict, ParityResult
from . import columns
from .columns import FILE, KERNELS, PRECISION, RUNNER, TARGET, VARIANT
from .formatting import row_name
from .table import Column, Table, Verdict

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}
PLACE = (VARIANT, RUNNER, TARGET, PRECISION)
PARITY = (columns.VERDICT, columns.SQNR, columns.LIMIT, FILE, KERNELS, columns.COSINE)
ACCURACY = (columns.ACCURACY_VERDICT, columns.TOP1, columns.TOP5, columns.DROP)


def parity(result: ParityResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    title = f"### edgepipe parity: {result.model['name']} ({result.model['weights']} weights)"
    shown = _table((*PLACE, *PARITY, columns.TOP1_AGREEMENT), result.cells)
    return "\n".join([title, "", shown, *_reasons(result.cells)]) + "\n"


def evaluation(result: EvaluationResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    title = f"### edgepipe evaluate: {result.model['name']} ({result.model['weights']} weights)"
    data = result.data
    about = f"{data['images']} images of {data['classes']} classes: {data['name']}"
    shown = _table((*PLACE, *ACCURACY, columns.DROP_INTERVAL, FILE, KERNELS), result.cells)
    notes = [f"* {note}" for note in result.notes]
    return "\n".join([title, "", about, "", shown, *_reasons(result.cells), *notes]) + "\n"


def _table(shown: Sequence[Column], cells: Sequence[CellVerdict | CellAccuracy]) -> str:
    return Table.of(shown, cells, blank="").markdown(_marked)


def _marked(verdict: Verdict) -> str:
    return MARKS.get(verdict.word, verdict.word)


def _reasons(cells: Sequence[CellVerdict | CellAccuracy]) -> list[str]:
    reasons = [f"* **{row_name(cell, cells)}**: {cell.reason}" for cell in cells if cell.reason]
    return ["", *reasons] if reasons else []
