"""The command line: parse, call, render. What the commands do is in ``edgepipe.pipeline``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

DEBUG = "EDGEPIPE_DEBUG"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From a trained PyTorch image classifier to verified models on the edge.",
)

Workspace = Annotated[
    Path | None,
    typer.Option("--workspace", metavar="DIR", help="Where artifacts live [default: artifacts]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="[default: mobilenet_v2]")
]
Runner = Annotated[
    list[str] | None,
    typer.Option("--runner", metavar="NAME", help="ort-cpu, ort-openvino, …; may be repeated."),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target", metavar="NAME", help="Where to run [default: local]; may be repeated."
    ),
]
Precision = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", metavar="NAME", help="f32, tf32, bf16, f16 [default: f32]; may be repeated."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Threads of every runner [default: physical cores]."),
]
RequireEp = Annotated[
    list[str] | None,
    typer.Option(
        "--require-ep",
        metavar="EP=N%",
        help="Fail unless N % of the nodes are on that execution provider; may be repeated.",
    ),
]
AllowFallback = Annotated[
    bool | None,
    typer.Option("--allow-fallback", help="Let nodes that a provider doesn't take run on the CPU."),
]
Variant = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="NAME", help="fp32, int8, int8-avx2, fp16; may be repeated."),
]

JUnit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML.")
]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Also write Markdown, for a job summary."),
]


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def export(
    model: Annotated[str | None, typer.Argument(help="[default: mobilenet_v2]")] = None,
    weights: Annotated[
        str | None, typer.Option(help="digits, imagenet or random [default: digits].")
    ] = None,
    variant: Variant = None,
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
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export MODEL to ONNX, simplify it, and quantize it to int8."""
    from . import export as run
    from .report import terminal

    manifest = run(
        model,
        workspace=workspace,
        force=force,
        progress=_progress(quiet),
        weights=weights,
        variants=tuple(variant) if variant else None,
        simplify=simplify,
        exporter=exporter,
        formats=_some(formats),
        opset=opset,
        batch=batch,
        input_size=input_size,
    )
    if as_json:
        print(manifest.to_json(), end="")
    else:
        print(terminal.export_table(manifest))


@app.command()
def bench(
    runner: Runner = None,
    variant: Variant = None,
    target: Target = None,
    precision: Precision = None,
    threads: Threads = None,
    require_ep: RequireEp = None,
    allow_fallback: AllowFallback = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds [default: 3].")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Least time measured in a round of a cell [default: 1].")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of 0.2 s a cell: a smoke test.")
    ] = False,
    model: Model = None,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time every variant on every runner, checking its outputs on the way."""
    from . import bench as run
    from .report import terminal

    result = run(
        workspace=workspace,
        model=model,
        quick=quick,
        progress=_progress(quiet),
        runners=_some(runner),
        variants=_some(variant),
        targets=_some(target),
        precisions=_some(precision),
        threads=threads,
        require_ep=_some(require_ep),
        allow_fallback=allow_fallback,
        rounds=rounds,
        seconds=seconds,
    )
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(terminal.bench_table(result))
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))


@app.command()
def parity(
    runner: Runner = None,
    variant: Variant = None,
    target: Target = None,
    precision: Precision = None,
    samples: Annotated[int | None, typer.Option(help="Goldens to run [default: all].")] = None,
    threads: Threads = None,
    require_ep: RequireEp = None,
    allow_fallback: AllowFallback = None,
    recording: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Judge a parity.npz again, run nothing."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say which step and which layer adds the error.")
    ] = False,
    junit: JUnit = None,
    markdown: Markdown = None,
    model: Model = None,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Are the answers still the model's? Judge every variant on every runner."""
    from . import parity as run
    from .report import explanation as explanation_report
    from .report import junit as junit_report
    from .report import markdown as markdown_report
    from .report import terminal
    from .workspace import writing

    result = run(
        workspace=workspace,
        model=model,
        recording=recording,
        explain=explain,
        progress=_progress(quiet),
        runners=_some(runner),
        variants=_some(variant),
        targets=_some(target),
        precisions=_some(precision),
        samples=samples,
        threads=threads,
        require_ep=_some(require_ep),
        allow_fallback=allow_fallback,
    )
    if junit:
        junit_report.write(result, junit)
    if markdown:
        with writing(markdown):
            markdown.write_text(markdown_report.parity(result))
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(terminal.parity_table(result))
        for explanation in result.explanations:
            print(explanation_report.text(explanation))
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))


@app.command()
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
    runner: Runner = None,
    variant: Variant = None,
    target: Target = None,
    precision: Precision = None,
    threads: Threads = None,
    junit: JUnit = None,
    markdown: Markdown = None,
    model: Model = None,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge every variant's accuracy on labelled images against fp32's."""
    from . import evaluate as run
    from .report import junit as junit_report
    from .report import markdown as markdown_report
    from .report import terminal
    from .workspace import writing

    result = run(
        workspace=workspace,
        model=model,
        progress=_progress(quiet),
        data=data,
        max_drop=max_drop,
        runners=_some(runner),
        variants=_some(variant),
        targets=_some(target),
        precisions=_some(precision),
        threads=threads,
    )
    if junit:
        junit_report.write(result, junit)
    if markdown:
        with writing(markdown):
            markdown.write_text(markdown_report.evaluation(result))
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(terminal.evaluation_table(result))
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))


@app.command()
def runners(target: Target = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """List every runner: what it takes and has, or why it is missing and what installs it."""
    from . import runners as run
    from .report import terminal

    result = run(targets=_some(target) or ("local",), progress=_progress(quiet))
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(terminal.runners_table(result))


@app.command()
def doctor(target: Target = None, as_json: Json = False) -> None:
    """Look for what would make numbers or installs wrong on this machine."""
    from . import doctor as run
    from .report import terminal

    result = run(targets=_some(target) or ("local",))
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(terminal.diagnosis(result))
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))


env = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Environments of their own, for runners that can't share this one.",
)
app.add_typer(env, name="env")
EnvironmentRunner = Annotated[str, typer.Argument(metavar="RUNNER", help="Such as ort-openvino.")]


@env.command("create")
def env_create(
    runner: EnvironmentRunner,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Make it with this Python [default: this].")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make RUNNER's environment; bench and parity use it from then on."""
    from . import environments

    print(environments.create(runner, python, _progress(quiet).say).folder)


@env.command("list")
def env_list(as_json: Json = False) -> None:
    """List the environments, with the versions that each is locked to."""
    from . import environments
    from .report import terminal

    found = environments.listing()
    if as_json:
        print(json.dumps({"schema_version": environments.SCHEMA_VERSION, "environments": found}))
    else:
        print(terminal.environments_table(found))


@env.command("remove")
def env_remove(runner: EnvironmentRunner) -> None:
    """Delete RUNNER's environment."""
    from . import environments

    environments.remove(runner)


def main() -> None:
    """Entry point: every expected failure is one line on stderr and its exit code."""
    from .errors import Terminated

    # Noted as well as raised: a library may catch what is raised inside it.
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    sys.exit(_guarded(app, received))


def _guarded(call: Callable[[], Any], received: list[int]) -> int | str | None:
    """Run the application; returns what ``sys.exit`` takes. A bug keeps its traceback."""
    from . import errors

    try:
        call()
    except SystemExit as exit_:
        return exit_.code if not received else 128 + received[0]
    except BaseException as error:
        if received and not os.environ.get(DEBUG):  # a library made something else of it
            return 128 + received[0]
        code = errors.exit_code(error)
        if code is None or os.environ.get(DEBUG):
            raise
        text = " ".join(str(error).split()) or code.name.lower()
        print(f"edgepipe: {text}", file=sys.stderr)
        return int(code)
    return 0


def _progress(quiet: bool) -> Any:
    from .progress import Silent, Stderr

    return Silent() if quiet else Stderr()


def _some(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None


if __name__ == "__main__":
    main()
