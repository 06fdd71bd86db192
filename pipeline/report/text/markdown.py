"""Parity and accuracy as Markdown, for the summary page of a CI job."""

from __future__ import annotations

from collections.abc import Sequence

from ...judging.accuracies import CellAccuracy, EvaluationResult
from ...judging.judged import CellVerdict, ParityResult
from .tables import decibels, row_name

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def parity(result: ParityResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    lines = [
        f"### edgepipe parity: {result.model['name']} ({result.model['weights']} weights)",
        "",
        "| variant | runner | target | precision | verdict | SQNR dB | limit | file dB "
        "| kernels dB | cosine | top-1 |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(cell) for cell in result.cells]
    return "\n".join([*lines, *_reasons(result.cells)]) + "\n"


def evaluation(result: EvaluationResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    data = result.data
    lines = [
        f"### edgepipe evaluate: {result.model['name']} ({result.model['weights']} weights)",
        "",
        f"{data['images']} images of {data['classes']} classes: {data['name']}",
        "",
        "| variant | runner | target | precision | verdict | top-1 | top-5 | drop | 95 % CI "
        "| file dB | kernels dB |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_accuracy_row(cell) for cell in result.cells]
    notes = [f"* {note}" for note in result.notes]
    return "\n".join([*lines, *_reasons(result.cells), *notes]) + "\n"


def _reasons(cells: Sequence[CellVerdict | CellAccuracy]) -> list[str]:
    reasons = [f"* **{row_name(cell, cells)}**: {cell.reason}" for cell in cells if cell.reason]
    return ["", *reasons] if reasons else []


def _accuracy_row(cell: CellAccuracy) -> str:
    verdict = MARKS.get(cell.verdict or "", _unjudged(cell))
    columns = [cell.variant, cell.runner, cell.target, cell.precision or "", verdict]
    columns += ["" if share is None else f"{share:.2%}" for share in (cell.top1, cell.top5)]
    low, high = cell.drop.ci95 if cell.drop else (None, None)
    columns += (
        ["", ""] if not cell.drop else [f"{cell.drop.points:.2f}", f"{low:.2f} to {high:.2f}"]
    )
    columns.append(decibels(cell.file_sqnr_db, cell.file_max_abs, ""))
    columns.append(decibels(cell.kernels_sqnr_db, cell.kernels_max_abs, ""))
    return f"| {' | '.join(columns)} |"


def _unjudged(cell: CellAccuracy) -> str:
    if cell.status != "ok":
        return cell.status
    return "" if cell.drop else "reference"


def _row(cell: CellVerdict) -> str:
    verdict = MARKS.get(cell.verdict or "", cell.status)
    sqnr = decibels(cell.sqnr_db, cell.max_abs, "")
    file = decibels(cell.file_sqnr_db, cell.file_max_abs, "")
    kernels = decibels(cell.kernels_sqnr_db, cell.kernels_max_abs, "")
    limit = f"{cell.gate['min_sqnr_db']:.1f}" if cell.gate else ""
    cosine = "" if cell.cosine is None else f"{cell.cosine:.6f}"
    top1 = "" if cell.top1_agreement is None else f"{cell.top1_agreement:.1%}"
    columns = (cell.variant, cell.runner, cell.target, cell.precision or "", verdict)
    return f"| {' | '.join((*columns, sqnr, limit, file, kernels, cosine, top1))} |"
