"""Commands about the machine: its runners, its faults, its environments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .declared import declared
from .groups import Grouped


@declared("machine:RunnersRequest")
def runners(
    said: Mapping[str, Any], as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """List every runner: what it has, or why it is missing."""
    from .. import runners as run
    from ..report.text import terminal

    result = run(**said, progress=options.progress(quiet))
    options.show(result, as_json, terminal.runners_table)


@declared("machine:DoctorRequest")
def doctor(said: Mapping[str, Any], as_json: options.Json = False) -> None:
    """Look for what makes numbers or installs wrong on this machine."""
    from .. import doctor as run
    from ..report.text import terminal

    result = run(**said)
    options.show(result, as_json, terminal.diagnosis)


env = typer.Typer(
    cls=Grouped,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Environments for runners that need their own, and for other CPUs.",
)
EnvironmentRunner = Annotated[str, typer.Argument(metavar="RUNNER", help="ort-openvino, arm64, …")]


@env.command("create")
def env_create(
    runner: EnvironmentRunner,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Make it with this Python [default: this].")
    ] = None,
    sysroot: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="arm64: a folder with an ARM64 system [default: Debian's packages]."
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Make RUNNER's environment; bench and parity use it from then on."""
    from .. import environments

    print(environments.create(runner, python, options.progress(quiet).say, sysroot).folder)


@env.command("list")
def env_list(as_json: options.Json = False) -> None:
    """List the environments, with the versions that each is locked to."""
    from .. import environments
    from ..report.text import terminal

    found = environments.listing()
    if as_json:
        options.show_json({"schema_version": environments.SCHEMA_VERSION, "environments": found})
    else:
        print(terminal.environments_table(found))


@env.command("remove")
def env_remove(runner: EnvironmentRunner, quiet: options.Quiet = False) -> None:
    """Delete RUNNER's environment, and what unfinished builds left."""
    from .. import environments

    for folder in environments.remove(runner, options.progress(quiet).say):
        print(f"removed {folder}")
