"""The list of commands in the help: under headings, by what one wants, each with its whole line."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

# Longer than the first sentence of any command's help, so that none is cut off.
WHOLE = 200


class Grouped(TyperGroup):
    """Commands under the headings that they name as their ``rich_help_panel``."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, in the order of the commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None) or "Commands"
                line = command.get_short_help_str(WHOLE).removesuffix(".")
                sections.setdefault(heading, []).append((name, line))
        widest = max(len(name) for rows in sections.values() for name, _ in rows)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), line) for name, line in rows])
