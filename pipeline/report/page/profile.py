"""Where the time of one cell goes, for a page."""

from __future__ import annotations

from typing import Any

from ..gather import Report
from ..plots import profile as plot
from ..tables.formatting import cpu_of, moment
from ..text import profile as text


def section(report: Report) -> dict[str, Any] | None:
    """What the templates take, ``None`` if nothing was profiled."""
    found = report.profile
    if found is None:
        return None
    return {
        "headline": text.headline(found),
        "duration": text.duration(found),
        "machine": f"Measured on {cpu_of(found.host)}, {moment(found.measured)}.",
        "operators": text.operators(found),
        "layers": text.layers(found),
        "lines": text.remarks(found),
        "between": bool(found.between_int8),
        "legend": plot.legend(found),
        "undrawn": plot.undrawn(found),
    }
