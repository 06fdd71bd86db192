"""What a stranger meets first: the list of commands, the version, short options, completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from ...conftest import Run

HEADINGS = ["Make", "Judge", "Look", "Ship", "This machine"]


def test_the_help_lists_commands_under_headings_with_a_whole_line_each(edgepipe: Run) -> None:
    listed = edgepipe("--help", env={"COLUMNS": "80"}).stdout
    assert re.findall(r"^(\w[\w ]*):$", listed, re.M)[1:] == HEADINGS
    rows = listed.partition("Make:")[2].splitlines()
    commands = [row for row in rows if row.startswith("  ")]
    assert len(commands) == 19
    assert all(re.match(r"  \w+ +[A-Z]", row) for row in commands), "a line goes on in a second one"
    assert "..." not in "".join(commands)


def test_nothing_asked_is_answered_with_the_two_commands_to_start_with(edgepipe: Run) -> None:
    done = edgepipe()
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(r"edgepipe export .*\n  edgepipe bench ", done.stderr)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_the_installed_one(edgepipe: Run, flag: str) -> None:
    done = edgepipe(flag)
    assert (done.returncode, done.stdout) == (0, f"edgepipe {version('edgepipe')}\n")


@pytest.mark.parametrize("command", [(), ("bench",), ("env",), ("env", "create")], ids=" ".join)
def test_h_is_help(edgepipe: Run, command: tuple[str, ...]) -> None:
    assert edgepipe(*command, "-h").stdout == edgepipe(*command, "--help").stdout != ""


def test_frequent_options_have_a_short_form(edgepipe: Run) -> None:
    short = edgepipe("parity", "-w", "here", "-m", "snakes", "-r", "ort-cpu", "-v", "int8", "-q")
    long = edgepipe(
        *("parity", "--workspace", "here", "--model", "snakes"),
        *("--runner", "ort-cpu", "--variant", "int8", "--quiet"),
    )
    assert short.stderr == long.stderr
    assert "here/snakes" in short.stderr


def test_a_shell_completes_commands() -> None:
    asked = {"_EDGEPIPE_COMPLETE": "complete_bash", "COMP_WORDS": "edgepipe p", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'edgepipe'; from edgepipe.pipeline.cli import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **asked})
    assert done.stdout.split() == ["parity", "predict", "package"]


def test_nothing_is_coloured_where_no_colour_is_asked_for(edgepipe: Run) -> None:
    for environment in ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"NO_COLOR": "1"}):
        assert "\x1b" not in edgepipe("runners", env=environment).stdout
