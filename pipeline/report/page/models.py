"""What a page says of several models: which to choose, and what separable convolutions save."""

from __future__ import annotations

from typing import Any

from ..gather import Report
from ..text.comparison import FRONT, convolutions, costs, notes, speeds


def section(report: Report) -> dict[str, Any] | None:
    """What the templates take, ``None`` if nothing was compared."""
    found = report.comparison
    if found is None:
        return None
    bench, lines = report.bench_cpu("local"), notes(found)
    local = found.hosts.get("local", found.host if not found.hosts else {})
    if bench and local and local.get("cpu") != bench:
        lines.insert(0, f"The models were compared on another CPU than bench’s ({bench}).")
    return {
        "costs": costs(found),
        "speeds": speeds(found),
        "convolutions": convolutions(found.convolutions),
        "notes": lines,
        # They have no place in the plot.
        "undrawn": [row.model for row in found.models if row.published_top1 is None],
        "front": FRONT,
    }
