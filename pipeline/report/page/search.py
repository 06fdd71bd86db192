"""What a search for int8 variants found, for a page."""

from __future__ import annotations

from typing import Any

from ..gather import Report
from ..plots import search as plot
from ..text import search as text


def section(report: Report) -> dict[str, Any] | None:
    """What the templates take, ``None`` if nothing was searched."""
    found = report.search
    if found is None:
        return None
    return {
        "front": text.fronts(found),
        "lines": text.remarks(found),
        "legend": plot.legend(found),
    }
