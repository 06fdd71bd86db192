"""Commands that make model files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def export(
    model: Annotated[
        str | None,
        typer.Argument(
            help="An architecture, or package.module:attribute for your own [default: mobilenet_v2]"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="digits, imagenet or random [default: digits].")
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(help="Width multiplier, of architectures that have one [default: 1]."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Classes of random weights [default: the 10 digits].")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights: a state dict (.safetensors, .pt, .pth)."),
    ] = None,
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Which dictionary of it: model_ema, state.ema … [default: the one that fits].",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The checkpoint's labels: text, one a line, or JSON."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call it in the workspace [default: MODEL].")
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(help="imagenet, inception or none [default: the weights' own, or imagenet]."),
    ] = None,
    fold_preprocessing: Annotated[
        bool | None,
        typer.Option(
            "--fold-preprocessing/--no-fold-preprocessing",
            help="Normalize in the model, which then takes uint8 NHWC [default: no].",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME:SHAPE:DTYPE",
            help="An input of your own model, if it takes no images; may be repeated.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Images to calibrate int8 with; or: synthetic."),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(metavar="N", help="How many of them [default: 128].")
    ] = None,
    skip_unreadable: options.SkipUnreadable = None,
    variant: options.Variant = None,
    simplify: Annotated[
        bool | None, typer.Option("--simplify/--no-simplify", help="Run onnxsim [default: yes].")
    ] = None,
    exporter: Annotated[
        str | None, typer.Option(help="onnx-dynamo or onnx-torchscript [default: onnx-dynamo].")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="onnx, and openvino-ir beside it; may be repeated."
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set [default: 20].")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N|dynamic", help="Images per run [default: 1].")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels [default: the weights' own].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make everything again.")] = False,
    workspace: options.Workspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export MODEL to ONNX, simplify it, and quantize it to int8."""
    from .. import export as run
    from ..report.text import terminal

    manifest = run(
        model,
        workspace=workspace,
        force=force,
        progress=options.progress(quiet),
        name=name,
        weights=weights,
        width=width,
        classes=classes,
        checkpoint=checkpoint,
        checkpoint_key=checkpoint_key,
        labels=labels,
        preprocessing=preprocessing,
        fold_preprocessing=fold_preprocessing,
        inputs=options.some(inputs),
        calibration=calibration,
        calibration_images=calibration_images,
        skip_unreadable=skip_unreadable,
        variants=tuple(variant) if variant else None,
        simplify=simplify,
        exporter=exporter,
        formats=options.some(formats),
        opset=opset,
        batch=batch,
        input_size=input_size,
    )
    if as_json:
        print(manifest.to_json(), end="")
    else:
        print(terminal.export_table(manifest))
