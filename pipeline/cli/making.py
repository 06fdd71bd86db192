"""Commands that make model files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import options
from .declared import declared

if TYPE_CHECKING:
    from .. import Manifest


@declared("making:ExportRequest")
def export(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Export MODEL to ONNX, simplify it, and quantize it to int8."""
    from .. import export as run

    _show(run(**said, progress=options.progress(quiet)), as_json)


@declared("making:ImportRequest")
def import_model(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Take in an ONNX file; simplify and quantize it as export does."""
    from .. import import_model as run

    _show(run(**said, progress=options.progress(quiet)), as_json)


@declared("making:QuantizeRequest")
def quantize(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Make int8 anew by another recipe, or search for the best one."""
    from .. import Manifest
    from .. import quantize as run
    from ..report.text import search

    result = run(**said, progress=options.progress(quiet))
    if isinstance(result, Manifest):
        _show(result, as_json)
    else:
        options.show(result, as_json, search.text)


@declared("making:TrainRequest")
def train(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Fine-tune MODEL on class folders, for export --checkpoint."""
    from .. import train as run
    from ..report.text import confusion

    progress = options.progress(quiet)
    result = run(**said, progress=progress)
    options.plot(result, progress)
    options.show(result, as_json, confusion.text)


def _show(manifest: Manifest, as_json: bool) -> None:
    """Print what is in the workspace now."""
    from ..report.text import terminal

    if as_json:
        print(manifest.to_json(), end="")
    else:
        print(terminal.export_table(manifest))
