"""The command that shows what the others found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from ..report.gather import Report


def write_report(
    *,
    workspace: Any = None,
    model: str | None = None,
    format: str = "html",  # noqa: A002 - the option's name
    output: Any = None,
    progress: Progress = SILENT,
) -> tuple[Report, Path]:
    """Put what the workspace's results say on one page; runs and measures nothing.

    ``format`` is "html" or "markdown". Without ``output`` the page is ``report.html`` or
    ``report.md`` in the workspace. Returns what is on the page, and its path. Not called
    ``report``: that is the package of the renderers. Raises what ``errors.EXIT_CODES`` lists.
    """
    from pathlib import Path

    from ..errors import UsageError
    from ..report.gather import gather
    from ..report.page import page
    from ..settings import load as configuration
    from ..storage.atomic import writing
    from ..storage.workspace import Workspace

    renderers = {"html": (page.html, "report.html"), "markdown": (page.markdown, "report.md")}
    if format not in renderers:
        raise UsageError(f"format: no {format!r}; {configuration.nearest(format, renderers)}")
    render, name = renderers[format]
    config = configuration.load_exported({"workspace": workspace, "model": model})
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe report", progress.say) as manifest:
        found = gather(place.folder, manifest)
        data = render(found).encode()
        if output is None:
            return found, place.write_result(name, data)
    path = Path(output)
    with writing(path):
        path.write_bytes(data)
    return found, path
