"""Commands that show what the others found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def report(
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="NAME", help="html, or markdown for a pull request or job summary."
        ),
    ] = "html",
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="[default: report.html or report.md in the workspace]"),
    ] = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    quiet: options.Quiet = False,
) -> None:
    """Put all that is known of the workspace on one page."""
    from .. import write_report
    from ..report.choice import choose

    found, path = write_report(
        workspace=workspace,
        model=model,
        format=form,
        output=output,
        progress=options.progress(quiet),
    )
    for choice in choose(found):
        print(choice.sentence)
    print(path)
