"""The reference of the command line, and the command that writes both references.

``python -m edgepipe.pipeline.cli.documentation [FOLDER]`` writes ``command-line.md`` and
``configuration.md``, made of the commands' own parameters and of the configuration's own fields.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from ..settings.documentation import HEADER, code, configuration, prose, table
from . import app

FOLDER = Path("docs/reference")
COLUMNS = ("option", "what")
INTRODUCTION = f"""# Command line

{HEADER}

Options that are keys, too, are described with their types in [Configuration](configuration.md).
Results go to stdout, progress and warnings to stderr; `--json` prints one document and nothing
else on stdout. What a command's exit code says is in [Exit codes](exit-codes.md).
"""


def command_line() -> str:
    """The page, as Markdown: what every command's help says."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    parts = [INTRODUCTION]
    for path, command in _commands(root, "edgepipe"):
        context = command.make_context(path, [], resilient_parsing=True)
        shown = [one for one in command.get_params(context) if one.name != "help"]
        arguments = [one.metavar for one in shown if one.param_type_name == "argument"]
        if isinstance(command, TyperGroup):
            arguments = ["COMMAND"]
        usage = " ".join([path, "[OPTIONS]", *arguments])
        parts += [f"## {path}", command.help or "", f"```text\n{usage}\n```"]
        if shown:
            parts.append(table([_row(one, context) for one in shown], COLUMNS))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def pages() -> Mapping[str, str]:
    """Every page that is made, by the name of its file."""
    return {"command-line.md": command_line(), "configuration.md": configuration()}


def _commands(group: TyperGroup, path: str) -> Iterator[tuple[str, Any]]:
    """A group, and all that is below it, in the order of the help."""
    yield path, group
    context = typer.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _row(parameter: Any, context: Any) -> tuple[str, str]:
    spelled, told = parameter.get_help_record(context)
    if parameter.param_type_name == "argument":
        spelled = parameter.metavar
    return code(spelled), prose(" ".join(told.split()))


if __name__ == "__main__":
    to = Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    for name, text in pages().items():
        (to / name).write_text(text)
