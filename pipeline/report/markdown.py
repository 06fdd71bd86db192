"""Parity as Markdown, for the summary page of a CI job."""

from __future__ import annotations

from ..stages.parity import CellVerdict, ParityResult

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def parity(result: ParityResult) -> str:
    """A table of the cells, and below it the reasons of those that did not pass."""
    lines = [
        f"### edgepipe parity: {result.model['name']} ({result.model['weights']} weights)",
        "",
        "| variant | runner | target | precision | verdict | SQNR dB | limit | cosine | top-1 |",
        "|---|---|---|---|---|---:|---:|---:|---:|",
    ]
    lines += [_row(cell) for cell in result.cells]
    reasons = [cell for cell in result.cells if cell.reason]
    if reasons:
        lines.append("")
    lines += [f"* **{cell.variant} / {cell.runner}**: {cell.reason}" for cell in reasons]
    return "\n".join(lines) + "\n"


def _row(cell: CellVerdict) -> str:
    verdict = MARKS.get(cell.verdict or "", cell.status)
    sqnr = "" if cell.sqnr_db is None else f"{cell.sqnr_db:.1f}"
    limit = f"{cell.gate['min_sqnr_db']:.1f}" if cell.gate else ""
    cosine = "" if cell.cosine is None else f"{cell.cosine:.6f}"
    top1 = "" if cell.top1_agreement is None else f"{cell.top1_agreement:.1%}"
    columns = (cell.variant, cell.runner, cell.target, cell.precision or "", verdict)
    return f"| {' | '.join((*columns, sqnr, limit, cosine, top1))} |"
