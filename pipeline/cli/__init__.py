"""The command line: parse, call, render. What the commands do is in ``edgepipe.pipeline``."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from . import judging, machine, making, scratch, shipping, showing, speed
from .groups import LOOKS, Grouped

DEBUG = "EDGEPIPE_DEBUG"
START = """To start with:

  edgepipe export    make the default model's variants here, in artifacts/
  edgepipe bench     time them on every runner that this machine has

`edgepipe --help` lists everything."""

app = typer.Typer(
    cls=Grouped,
    **LOOKS,
    help="From a trained PyTorch image classifier to verified models on the edge.",
)

# What no function can be called.
NAMES = {"import_model": "import"}
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Make": (making.export, making.import_model, making.quantize, making.train),
    "Judge": (speed.bench, judging.parity, judging.evaluate, speed.tune, speed.compare),
    "Look": (judging.inspect, judging.predict, showing.report),
    "Ship": (
        *(shipping.package, shipping.verify, shipping.deploy),
        *(shipping.push, shipping.pull, shipping.release),
        *(shipping.rollout, shipping.status, shipping.heartbeat),
    ),
    "This machine": (machine.runners, machine.doctor),
}
for heading, commands in COMMANDS.items():
    for command in commands:
        name = NAMES.get(command.__name__, command.__name__)
        app.command(name, rich_help_panel=heading)(command)
app.add_typer(machine.env, name="env", rich_help_panel="This machine")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"edgepipe {version('edgepipe')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ[DEBUG] = "1"
    if context.invoked_subcommand is None:
        print(START, file=sys.stderr)
        raise typer.Exit(2)


def main() -> None:
    """Entry point: every expected failure is one line on stderr and its exit code."""
    from ...runners.machine import own_process
    from ..errors import Terminated

    own_process.claim()
    # Noted as well as raised: a library may catch what is raised inside it.
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def run() -> None:
        with scratch.folder():
            signal.signal(signal.SIGTERM, interrupt)
            signal.signal(signal.SIGINT, interrupt)
            app()

    sys.exit(_guarded(run, received))


def _guarded(call: Callable[[], Any], received: list[int]) -> int | str | None:
    """Run the application; returns what ``sys.exit`` takes. A bug keeps its traceback."""
    from .. import errors

    try:
        call()
    except SystemExit as exit_:
        return exit_.code if not received else 128 + received[0]
    except BaseException as error:
        if received and not os.environ.get(DEBUG):  # a library made something else of it
            return 128 + received[0]
        code = errors.exit_code(error)
        if code is None or os.environ.get(DEBUG):
            traceback.print_exc()
        if code is None:
            print("edgepipe: a fault of edgepipe itself, not of what it was given", file=sys.stderr)
            return int(errors.ExitCode.SOFTWARE)
        text = " ".join(str(error).split()) or code.name.lower()
        print(f"edgepipe: {text}", file=sys.stderr)
        return int(code)
    return 0
