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
    """Put the variants, their proof and their settings into one file for the box."""
    from .. import package as run
    from ..report import shipping as report

    result = run(
        workspace=workspace,
        model=model,
        progress=options.progress(quiet),
        output=output,
        variants=options.some(variant),
        formats=options.some(formats),
        sign_key=sign_key,
        sign_certificate=sign_certificate,
        sign_chain=tuple(sign_chain) if sign_chain else None,
        allow_untrained=allow_untrained,
        allow_failed_parity=allow_failed_parity,
    )
    if as_json:
        options.show_json(result.to_json())
    else:
        print(report.packaged(result))


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `package` wrote.")],
    runner: Annotated[
        str | None,
        typer.Option("--runner", metavar="NAME", help="[default: the first one that is there]"),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", metavar="NAME", help="[default: the best one that fits the CPU]"),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="NAME", help="Where to run it.")
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
    """Does BUNDLE hold here? Integrity, signature, CPU, answers: one verdict."""
    from .. import verify as run
    from ..report import shipping as report

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
    if as_json:
        options.show_json(result.to_json())
    else:
        print(report.verification(result))
    options.leave(result.exit_code)
