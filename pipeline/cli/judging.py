"""Commands that judge cells: their speed, their fidelity, their accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def parity(
    runner: options.Runner = None,
    variant: options.Variant = None,
    target: options.Target = None,
    precision: options.Precision = None,
    samples: Annotated[int | None, typer.Option(help="Goldens to run [default: all].")] = None,
    threads: options.Threads = None,
    require_ep: options.RequireEp = None,
    allow_fallback: options.AllowFallback = None,
    recording: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Judge a parity.npz again, run nothing."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say which step and which layer adds the error.")
    ] = False,
    junit: options.JUnit = None,
    markdown: options.Markdown = None,
    trust_workspace: options.TrustWorkspace = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Hold every variant on every runner against the model's own answers."""
    from .. import parity as run
    from ..report.text import junit as junit_report
    from ..report.text import markdown as markdown_report
    from ..report.text import terminal
    from ..storage.atomic import writing

    result = run(
        workspace=workspace,
        model=model,
        recording=recording,
        explain=explain,
        progress=options.progress(quiet),
        trust_workspace=trust_workspace,
        runners=options.some(runner),
        variants=options.some(variant),
        targets=options.some(target),
        precisions=options.some(precision),
        samples=samples,
        threads=threads,
        require_ep=options.some(require_ep),
        allow_fallback=allow_fallback,
    )
    if junit:
        junit_report.write(result, junit)
    if markdown:
        with writing(markdown):
            markdown.write_text(markdown_report.parity(result))
    options.show(result, as_json, terminal.parity)
    options.leave(result.exit_code)


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of images for each label [default: digits]."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="Loss of top-1 that is allowed, in points [default: no gate]."
        ),
    ] = None,
    runner: options.Runner = None,
    variant: options.Variant = None,
    target: options.Target = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    decoders: options.Decoders = None,
    skip_unreadable: options.SkipUnreadable = None,
    junit: options.JUnit = None,
    markdown: options.Markdown = None,
    trust_workspace: options.TrustWorkspace = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge every variant's accuracy on labelled images against fp32's."""
    from .. import evaluate as run
    from ..report.text import junit as junit_report
    from ..report.text import markdown as markdown_report
    from ..report.text import terminal
    from ..storage.atomic import writing

    result = run(
        workspace=workspace,
        model=model,
        progress=options.progress(quiet),
        trust_workspace=trust_workspace,
        data=data,
        max_drop=max_drop,
        decoders=decoders,
        skip_unreadable=skip_unreadable,
        runners=options.some(runner),
        variants=options.some(variant),
        targets=options.some(target),
        precisions=options.some(precision),
        threads=threads,
    )
    if junit:
        junit_report.write(result, junit)
    if markdown:
        with writing(markdown):
            markdown.write_text(markdown_report.evaluation(result))
    options.show(result, as_json, terminal.evaluation_table)
    options.leave(result.exit_code)


def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, patterns; - for a list on stdin."),
    ],
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp32, int8, … [default: fp32].")
    ] = None,
    runner: Annotated[
        str | None, typer.Option(metavar="NAME", help="ort-cpu, openvino, … [default: ort-cpu].")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where to run [default: local].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="f32, tf32, bf16, f16 [default: f32].")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Classes to show an image [default: 5].")] = None,
    threads: options.Threads = None,
    decoders: options.Decoders = None,
    trust_workspace: options.TrustWorkspace = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask one variant on one runner what is in these images."""
    from .. import predict as run
    from ..report.text import predictions as report

    result = run(
        images,
        workspace=workspace,
        model=model,
        progress=options.progress(quiet),
        trust_workspace=trust_workspace,
        variant=variant,
        runner=runner,
        target=target,
        precision=precision,
        top=top,
        threads=threads,
        decoders=decoders,
    )
    options.show(result, as_json, report.predictions)
    options.leave(result.exit_code)
