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
    soak: Annotated[
        str | None,
        typer.Option(
            "--soak", metavar="TIME", help="Run one cell that long (8h): leaks and throttling."
        ),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time every variant on every runner, and check its outputs."""
    if profile or soak is not None:
        _one_cell(said, profile, soak, as_json, quiet)
        return
    from .. import bench as run
    from ..report.text.benchmark import bench_table

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, bench_table)


def _one_cell(
    said: Mapping[str, Any], profile: bool, duration: str | None, as_json: bool, quiet: bool
) -> None:
    from .. import profile as run_profile
    from .. import soak as run_soak
    from ..errors import UsageError
    from ..report.tables import soak as soaked
    from ..report.text import profile as profiled
    from ..settings.speed import ProfileRequest, SoakRequest

    if profile and duration is not None:
        raise UsageError("--soak: not with --profile, each looks into a cell of its own")
    request, name = (ProfileRequest, "--profile") if profile else (SoakRequest, "--soak")
    for option in said:
        if option not in request.model_fields:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag}: not with {name}, which looks into one run of one cell")
    if duration is None:
        options.show(run_profile(**said, progress=options.progress(quiet)), as_json, profiled.text)
    else:
        found = run_soak(duration=duration, **said, progress=options.progress(quiet))
        options.show(found, as_json, soaked.text)


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
    """Put models side by side: size, memory, speed, accuracy."""
    from .. import compare as run
    from .. import write_plot
    from ..report.text import comparison

    result = run(**said, progress=options.progress(quiet))
    if plot:
        write_plot(result, plot)
    options.show(result, as_json, comparison.text)
