"""The list of commands in the help: under headings, by what one wants, each with its whole line."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from .declared import command_of

LOOKS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
# Longer than the first sentence of any command's help, so that none is cut off.
WHOLE = 200


class Grouped(TyperGroup):
    """Commands under the headings that they name as their ``rich_help_panel``.

    A command's options are made when it is called, so that the list of them loads nothing.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with its options; ``None`` if there is none of this name."""
        listed = super().get_command(ctx, cmd_name)
        whole = command_of(listed.callback) if listed else None
        if whole is None:
            return listed
        alone = typer.Typer(add_completion=False, **LOOKS)
        alone.command(cmd_name)(whole)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, in the order of the commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = super().get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None) or "Commands"
                line = command.get_short_help_str(WHOLE).removesuffix(".")
                sections.setdefault(heading, []).append((name, line))
        widest = max(len(name) for rows in sections.values() for name, _ in rows)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), line) for name, line in rows])
