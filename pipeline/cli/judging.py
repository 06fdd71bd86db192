"""Commands that judge cells by their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import options
from .declared import declared


@declared("judging:ParityRequest")
def parity(
    said: Mapping[str, Any],
    junit: options.JUnit = None,
    markdown: options.Markdown = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Hold every variant on every runner against the model's answers."""
    from .. import parity as run
    from ..report.text import terminal

    progress = options.progress(quiet)
    result = run(**said, progress=progress)
    if result.explanations:
        options.plot(result, progress)
    options.write(result, junit, markdown)
    options.show(result, as_json, terminal.parity)


@declared("judging:InspectRequest")
def inspect(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Show what an ONNX file is, and which runners here take it."""
    from .. import inspect as run
    from ..report.text import terminal

    options.show(run(**said, progress=options.progress(quiet)), as_json, terminal.inspection)


@declared("judging:EvaluateRequest")
def evaluate(
    said: Mapping[str, Any],
    junit: options.JUnit = None,
    markdown: options.Markdown = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge every variant's accuracy on labelled images against fp32's."""
    from .. import evaluate as run
    from ..report.text import terminal

    result = run(**said, progress=options.progress(quiet))
    options.write(result, junit, markdown)
    options.show(result, as_json, terminal.evaluation_table)


@declared("judging:PredictRequest")
def predict(
    said: Mapping[str, Any],
    show: options.Show = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask one variant on one runner what is in these images."""
    from .. import predict as run
    from ..report.text import terminal

    options.check_picture(show)
    progress = options.progress(quiet)
    result = run(**said, progress=progress)
    options.picture(result, show, progress)
    options.show(result, as_json, terminal.predictions)
