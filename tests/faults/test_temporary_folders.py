"""A command that is killed can't clear up: the next one does, and touches nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A command that has taken its folder, put a file in it, and waits.
WAITING = """
import os, pathlib, sys
from edgepipe.pipeline.cli import scratch
with scratch.folder():
    pathlib.Path(os.environ["TMPDIR"], "left").touch()
    print(os.environ["TMPDIR"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process = _command(tmp_path)
    yield process
    process[0].kill()
    process[0].communicate()


def _command(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def _another(temporary: Path) -> None:
    process, folder = _command(temporary)
    assert folder.is_dir()
    process.communicate("")
    assert process.returncode == 0
    assert not folder.exists()


def test_next_command_clears_what_a_killed_one_left(
    tmp_path: Path, waiting: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = waiting
    process.kill()
    process.wait()
    assert (folder / "left").is_file()
    _another(tmp_path)
    assert not folder.exists()


def test_running_commands_and_other_folders_are_left_alone(
    tmp_path: Path, waiting: tuple[subprocess.Popen[str], Path]
) -> None:
    _, folder = waiting
    foreign = tmp_path / "edgepipe-foreign"
    foreign.mkdir()
    (foreign / "mine").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "edgepipe-link").symlink_to(elsewhere)
    _another(tmp_path)
    assert (folder / "left").is_file()
    assert (foreign / "mine").is_file()
    assert elsewhere.is_dir()
