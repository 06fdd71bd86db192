"""Commands that ship: a bundle, and its proof on the box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def package(
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Where to write it [default: bundles]."),
    ] = None,
    variant: options.Variant = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="onnx, openvino-ir [default: onnx]; may be repeated."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", metavar="NAME", help="A folder for ovms, triton or kserve instead."
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option("--sign-key", metavar="FILE", help="Sign with this private key (EC, PEM)."),
    ] = None,
    sign_certificate: Annotated[
        Path | None,
        typer.Option("--sign-certificate", metavar="FILE", help="The certificate of that key."),
    ] = None,
    sign_chain: Annotated[
        list[Path] | None,
        typer.Option(
            "--sign-chain", metavar="FILE", help="Certificates above it; may be repeated."
        ),
    ] = None,
    release: Annotated[
        int | None, typer.Option(help="Its number; boxes refuse older ones [default: 0].")
    ] = None,
    allow_untrained: Annotated[
        bool | None, typer.Option("--allow-untrained", help="Package random weights; it is noted.")
    ] = None,
    allow_failed_parity: Annotated[
        bool | None,
        typer.Option("--allow-failed-parity", help="Package without a passed parity; it is noted."),
    ] = None,
    model: options.Model = None,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put variants, their proof and settings into one file for the box."""
    from .. import package as run
    from ..report.text import shipping as report

    result = run(
        workspace=workspace,
        model=model,
        progress=options.progress(quiet),
        output=output,
        variants=options.some(variant),
        formats=options.some(formats),
        layout=layout,
        sign_key=sign_key,
        sign_certificate=sign_certificate,
        sign_chain=tuple(sign_chain) if sign_chain else None,
        release=release,
        allow_untrained=allow_untrained,
        allow_failed_parity=allow_failed_parity,
    )
    options.show(result, as_json, report.packaged)


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `package` wrote.")],
    runner: Annotated[
        str | None,
        typer.Option(
            "--runner", "-r", metavar="NAME", help="[default: the first one that is there]"
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant", "-v", metavar="NAME", help="[default: the best one that fits the CPU]"
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help="Where to run it.")
    ] = "local",
    samples: Annotated[int | None, typer.Option(help="Goldens to run [default: all].")] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Require a signature by this key (PEM)."),
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--root",
            metavar="FILE",
            help="Require a signature whose certificate this one vouches for; may be repeated.",
        ),
    ] = None,
    allow_unfit: Annotated[
        bool | None,
        typer.Option("--allow-unfit", help="Accept a --variant that is not for this CPU."),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge BUNDLE here: integrity, signature, CPU, answers."""
    from .. import verify as run
    from ..report.text import shipping as report

    result = run(
        bundle,
        target=target,
        progress=options.progress(quiet),
        runner=runner,
        variant=variant,
        samples=samples,
        key=key,
        roots=tuple(roots) if roots else None,
        allow_unfit=allow_unfit,
    )
    options.show(result, as_json, report.verification)
    options.leave(result.exit_code)


def deploy(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `package` wrote.")],
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help="The box, a [targets.NAME].")
    ],
    folder: Annotated[
        str | None,
        typer.Option("--folder", metavar="DIR", help="On the box [default: ~/edgepipe]."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="FILE", help="On the box: require a signature by it."),
    ] = None,
    restart: Annotated[
        str | None,
        typer.Option("--restart", metavar="UNIT", help="systemd service that serves it."),
    ] = None,
    settle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long the service must stay up [default: 10]."),
    ] = None,
    allow_downgrade: Annotated[
        bool | None,
        typer.Option("--allow-downgrade", help="Also an older release than the one served."),
    ] = None,
    runner: Annotated[
        str | None, typer.Option("--runner", "-r", metavar="NAME", help="As for `verify`, there.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", "-v", metavar="NAME", help="As for `verify`, there.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Goldens to run [default: all].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Connect and say what would happen.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring BUNDLE onto a box: verified there, served, with a way back."""
    from .. import deploy as run
    from ..report.text import shipping as report

    result = run(
        bundle,
        target=target,
        dry_run=dry_run,
        progress=options.progress(quiet),
        folder=folder,
        key=key,
        restart=restart,
        settle=settle,
        allow_downgrade=allow_downgrade,
        runner=runner,
        variant=variant,
        samples=samples,
    )
    options.show(result, as_json, report.deployment)
    options.leave(result.exit_code)
