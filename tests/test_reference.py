"""The pages of the reference that are made: they say what the sources say, now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from edgepipe.pipeline.cli import app, documentation
from edgepipe.pipeline.settings.load import COMMANDS, load

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PAGES = documentation.pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_the_repository_is_the_one_that_is_made(name: str) -> None:
    again = "python -m edgepipe.pipeline.cli.documentation"
    assert (FOLDER / name).read_text() == PAGES[name], f"out of date: run {again}"


def rows(table: str) -> list[list[str]]:
    """The rows of a command's table in the configuration reference, without the code's marks."""
    part = PAGES["configuration.md"].partition(f"\n## `[{table}]`\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line[:3] == "| `"]
    return [[cell.strip(" `") for cell in line] for line in lines]


@pytest.mark.parametrize("table", COMMANDS)
def test_every_key_is_there_with_a_flag_that_the_command_has(table: str) -> None:
    found = rows(table)
    assert [row[0].replace("-", "_") for row in found] == list(COMMANDS[table].model_fields)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.get_command(typer.Context(group), table)
    assert command
    spelled = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    flags = {flag for row in found for flag in re.split(r", |/", row[4]) if flag}
    assert flags <= spelled


def test_a_variable_of_the_reference_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {row[0]: row[3] for row in rows("bench")}
    monkeypatch.setenv(variables["threads"], "3")
    monkeypatch.setenv(variables["runners"], "ort-cpu, openvino")
    found = load(folder=tmp_path).bench
    assert (found.threads, found.runners) == (3, ("ort-cpu", "openvino"))
