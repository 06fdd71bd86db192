"""Commands about speed: measure it, hold it against what it was, make the most of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def bench(
    runner: options.Runner = None,
    variant: options.Variant = None,
    target: options.Target = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="single-stream (latency), offline (throughput), server (random arrivals) "
            "[default: single-stream].",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="N", help="Images in a run, for a dynamic batch; or sweep."),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", help="Runs side by side (offline, server) [default: runner's]."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="Runs that arrive in a second (server).")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with an earlier bench.json of this machine."),
    ] = None,
    rerun_baseline: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Compare with another workspace, measured along."),
    ] = None,
    max_slowdown: Annotated[
        str | None,
        typer.Option(metavar="N%", help="How much slower a cell may be [default: 5%]."),
    ] = None,
    require_ep: options.RequireEp = None,
    allow_fallback: options.AllowFallback = None,
    untuned: options.Untuned = False,
    rounds: Annotated[
        int | None,
        typer.Option(help="Most interleaved rounds; fewer once all is clear [default: 10]."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Least time measured in a round of a cell [default: 0.5].")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of 0.2 s a cell: a smoke test.")
    ] = False,
    trust_workspace: options.TrustWorkspace = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time every variant on every runner, and check its outputs."""
    from .. import bench as run
    from ..report.text.benchmark import bench_table

    result = run(
        workspace=workspace,
        model=model,
        quick=quick,
        baseline=baseline,
        rerun_baseline=rerun_baseline,
        progress=options.progress(quiet),
        trust_workspace=trust_workspace,
        runners=options.some(runner),
        variants=options.some(variant),
        targets=options.some(target),
        precisions=options.some(precision),
        threads=threads,
        scenario=scenario,
        batch=batch,
        concurrency=concurrency,
        rate=rate,
        max_slowdown=max_slowdown,
        require_ep=options.some(require_ep),
        allow_fallback=allow_fallback,
        tuned=False if untuned else None,
        rounds=rounds,
        seconds=seconds,
    )
    options.show(result, as_json, bench_table)
    options.leave(result.exit_code)


def tune(
    runner: options.Runner = None,
    variant: options.Variant = None,
    target: options.Target = None,
    precision: options.Precision = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="single-stream (latency) or offline (throughput) [default: single-stream].",
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time for all cells [default: 900].")
    ] = None,
    trust_workspace: options.TrustWorkspace = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Search for settings that are proven faster than the defaults."""
    from .. import tune as run
    from ..report.text.benchmark import tune_table

    result = run(
        workspace=workspace,
        model=model,
        progress=options.progress(quiet),
        trust_workspace=trust_workspace,
        runners=options.some(runner),
        variants=options.some(variant),
        targets=options.some(target),
        precisions=options.some(precision),
        scenario=scenario,
        budget=budget,
    )
    options.show(result, as_json, tune_table)
    options.leave(result.exit_code)
