"""What ``edgepipe report`` is asked; it has no keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .options import Help, OfModel


class ReportRequest(OfModel):
    """``edgepipe report``: put all that is known of the workspace on one page."""

    format: Annotated[
        str, Help("html, or markdown for a pull request or job summary.", metavar="NAME")
    ] = "html"
    output: Annotated[
        Path | None,
        Help("", metavar="FILE", unset="report.html or report.md in the workspace"),
    ] = None
