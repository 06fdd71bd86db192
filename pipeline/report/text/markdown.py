"""Parity and accuracy as Markdown, for the summary page of a CI job."""

from __future__ import annotations

from ...judging.evaluate_result import EvaluationResult
from ...judging.parity_result import ParityResult
from ..tables.formatting import source_of
from ..tables.table import Table, Verdict
from . import judged

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def parity(result: ParityResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    return _document("parity", result, judged.verdicts(result), judged.reasons(result.cells))


def evaluation(result: EvaluationResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    return _document("evaluate", result, judged.accuracies(result), judged.notes(result))


def _document(
    command: str, result: ParityResult | EvaluationResult, shown: Table, notes: list[str]
) -> str:
    model = result.model
    title = f"### edgepipe {command}: {model['name']} ({source_of(model)})"
    lines = "\n".join(f"* {note}" for note in notes)
    parts = (title, shown.caption, shown.markdown(_marked), lines)
    return "\n\n".join(filter(None, parts)) + "\n"


def _marked(verdict: Verdict) -> str:
    return MARKS.get(verdict.word, verdict.word)
