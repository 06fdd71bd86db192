"""Commands about the choice and the making of a model, before anything is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def compare(
    model: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="[default: all there are]")
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Only what needs no run: a few seconds.")
    ] = False,
    convolutions: Annotated[
        bool,
        typer.Option("--convolutions", help="Also standard against separable convolutions."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw accuracy against time, as SVG.")
    ] = None,
    runner: options.Runner = None,
    variant: options.Variant = None,
    threads: options.Threads = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds [default: 5].")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Least time measured in a round of a cell [default: 0.3].")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels [default: the published one].")
    ] = None,
    training: Annotated[
        bool | None, typer.Option("--training/--no-training", help="Time a step [default: yes].")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One short round: a smoke test.")] = False,
    workspace: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The models exported there [default: the zoo, random weights]."
        ),
    ] = None,
    trust_workspace: options.TrustWorkspace = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put models side by side: size, arithmetic, memory, speed, accuracy."""
    from .. import compare as run
    from ..report.plots import choices
    from ..report.text import comparison
    from ..storage.atomic import write_whole

    result = run(
        tuple(model or ()),
        workspace=workspace,
        static=static,
        convolutions=convolutions,
        quick=quick,
        progress=options.progress(quiet),
        trust_workspace=trust_workspace,
        runners=options.some(runner),
        variants=options.some(variant),
        threads=threads,
        rounds=rounds,
        seconds=seconds,
        input_size=input_size,
        training=training,
    )
    if plot:
        write_whole(plot, choices.svg(result).encode())
    options.show(result, as_json, comparison.text)
    options.leave(result.exit_code)


def train(
    model: Annotated[str | None, typer.Argument(help="[default: mobilenet_v2]")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images, in a folder for each class.")
    ] = None,
    skip_unreadable: options.SkipUnreadable = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The weights [default: MODEL-DIR.safetensors]."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start from these weights; classes may be others."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Start from: random or imagenet [default: random].")
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(help="Width multiplier, of architectures that have one [default: 1]."),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels [default: the weights' own].")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most [default: 20].")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step [default: 32].")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak of the schedule [default: 0.003 from random weights, 0.0005]."),
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Part of each class to judge by [default: 0.2].")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better one before it ends [default: 5].")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="photos, shapes (never mirrored) or none [default: photos]."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, weights and order.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads [default: torch's own].")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over, whatever a killed run has left.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune MODEL on class folders, for export --checkpoint."""
    from .. import train as run
    from ..report.text import confusion

    result = run(
        model,
        output=output,
        restart=restart,
        progress=options.progress(quiet),
        data=data,
        skip_unreadable=skip_unreadable,
        init=init,
        weights=weights,
        width=width,
        input_size=input_size,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        held_out=held_out,
        patience=patience,
        augment=augment,
        seed=seed,
        threads=threads,
    )
    options.show(result, as_json, confusion.text)
