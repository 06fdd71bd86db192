"""Commands that show what the others found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import options
from .declared import declared


@declared("showing:ReportRequest")
def report(said: Mapping[str, Any], quiet: options.Quiet = False) -> None:
    """Put all that is known of the workspace on one page."""
    from .. import write_report
    from ..report.choice import choose

    found, path = write_report(**said, progress=options.progress(quiet))
    for choice in choose(found):
        print(choice.sentence)
    print(path)
