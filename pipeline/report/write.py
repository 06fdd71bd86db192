"""Results written as files for people and machines: a page, Markdown, JUnit XML, pictures.

They are written from what other commands found; nothing is run or measured.
"""

from __future__ import annotations

import errno
import os
from importlib.util import find_spec
from pathlib import Path

from ..errors import MissingLibrary, UsageError
from ..judging.evaluate_result import EvaluationResult
from ..judging.explain import PLOT_FILE
from ..judging.parity_result import ParityResult
from ..judging.predict import PredictResult
from ..settings.load import load_exported
from ..settings.nearest import nearest
from ..settings.options import takes
from ..settings.showing import ReportRequest
from ..shipping.fleet.rollout_result import Rollout
from ..speed.comparison.compare import CompareResult
from ..storage.atomic import write_whole, writing
from ..storage.workspace import Workspace
from ..training.train import PLOT_SUFFIX, TrainResult
from .gather import Report, gather
from .page import page, rollout
from .plots import comparison, confusion, explanation, seen
from .text import junit, markdown

PICTURE_SUFFIX = ".png"


@takes(ReportRequest)
def write_report(request: ReportRequest) -> tuple[Report, Path]:
    """Put what the workspace's results say on one page; runs and measures nothing.

    ``format`` is "html" or "markdown". Without ``output`` the page is ``report.html`` or
    ``report.md`` in the workspace. Returns what is on the page, and its path. Not called
    ``report``: that is the package of the renderers. Raises what ``errors.EXIT_CODES`` lists.
    """
    renderers = {"html": (page.html, "report.html"), "markdown": (page.markdown, "report.md")}
    if request.format not in renderers:
        hint = nearest(request.format, renderers)
        raise UsageError(f"format: no {request.format!r}; {hint}")
    render, name = renderers[request.format]
    config = load_exported(request.flags())
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe report", request.progress.say) as manifest:
        found = gather(place.folder, manifest)
        data = render(found).encode()
        if request.output is None:
            return found, place.write_result(name, data)
    with writing(request.output):
        request.output.write_bytes(data)
    return found, request.output


def write_rollout(result: Rollout, path: Path) -> None:
    """Write a page about a rollout, as HTML. Raises ``MissingLibrary`` without jinja2."""
    write_whole(path, rollout.html(result).encode())


def write_junit(result: ParityResult | EvaluationResult, path: Path) -> None:
    """Write verdicts as JUnit XML. Raises ``MissingLibrary`` without junitparser."""
    junit.write(result, path)


def write_markdown(result: ParityResult | EvaluationResult, path: Path) -> None:
    """Write verdicts as Markdown, for the summary of a CI job."""
    parity = isinstance(result, ParityResult)
    text = markdown.parity(result) if parity else markdown.evaluation(result)
    with writing(path):
        path.write_text(text)


def write_plot(
    result: CompareResult | ParityResult | TrainResult, path: Path | None = None
) -> Path:
    """Draw what a result is about, as SVG; returns the file's path.

    Of a comparison what there is to choose from, of an explained parity the layers
    (``explain.svg`` in the workspace unless told otherwise), of a training the confusion matrix
    (beside the weights). Raises ``MissingLibrary`` without matplotlib, and ``UsageError`` for a
    parity without explanations, or a comparison without a path.
    """
    try:
        if isinstance(result, TrainResult):
            path, drawn = path or result.output.with_suffix(PLOT_SUFFIX), confusion.svg(result)
        elif isinstance(result, ParityResult):
            path = path or (result.folder / PLOT_FILE if result.folder else None)
            drawn = explanation.svg(result.explanations)
        else:
            drawn = comparison.svg(result)
    except ImportError as error:
        raise MissingLibrary(f'no plot: {error}; pip install "edgepipe[report]"') from error
    if path is None:
        raise UsageError("a plot needs a path, or a result that was explained in a workspace")
    write_whole(path, drawn.encode())
    return path


def write_picture(result: PredictResult, path: Path) -> int:
    """Draw what the model saw of the images that it was asked about, as PNG.

    Each photograph with the part that is left of it, the pixels that went in, the tensor, and the
    likeliest classes. Returns how many images are on it: 12 at most, the first that could be read;
    with none nothing is written. Raises what ``check_picture`` raises, and ``ImageError`` for a
    file that is gone by now.
    """
    check_picture(path)
    data, count = seen.png(result)
    if count:
        write_whole(path, data)
    return count


def check_picture(path: Path) -> None:
    """Raise what would keep ``write_picture`` from writing there, before anything has run.

    ``UsageError`` for a name that is no PNG's, ``WorkspaceError`` for a folder that isn't there or
    stands in the way, ``MissingLibrary`` without matplotlib.
    """
    if path.suffix.lower() != PICTURE_SUFFIX:
        raise UsageError(f"{path}: a picture is a PNG: call it {path.stem}{PICTURE_SUFFIX}")
    with writing(path):
        path.parent.stat()  # a mistyped folder is not made
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if find_spec("matplotlib") is None:
        raise MissingLibrary('no picture without matplotlib; pip install "edgepipe[report]"')
