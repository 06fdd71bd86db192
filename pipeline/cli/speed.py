"""Commands about speed: measure it, hold it against what it was, make the most of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .declared import declared


@declared("speed:BenchRequest")
def bench(
    said: Mapping[str, Any],
    profile: Annotated[
        bool, typer.Option("--profile", help="Say what one cell's operators and layers take.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time every variant on every runner, and check its outputs."""
    if profile:
        _profile(said, as_json, quiet)
        return
    from .. import bench as run
    from ..report.text.benchmark import bench_table

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, bench_table)


def _profile(said: Mapping[str, Any], as_json: bool, quiet: bool) -> None:
    from .. import profile as run
    from ..errors import UsageError
    from ..report.text import profile as shown
    from ..settings.speed import ProfileRequest

    for name in said:
        if name not in ProfileRequest.model_fields:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag}: not with --profile, which looks into one run of one cell")
    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, shown.text)


@declared("speed:TuneRequest")
def tune(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Search for settings that are proven faster than the defaults."""
    from .. import tune as run
    from ..report.text import tuning

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, tuning.text)


@declared("speed:CompareRequest")
def compare(
    said: Mapping[str, Any],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw accuracy against time, as SVG.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put models side by side: size, arithmetic, memory, speed, accuracy."""
    from .. import compare as run
    from .. import write_plot
    from ..report.text import comparison

    result = run(**said, progress=options.progress(quiet))
    if plot:
        write_plot(result, plot)
    options.show(result, as_json, comparison.text)
