"""Commands run in this process over scripted runners: nothing of the machine is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from edgepipe.exporters import registry as exporters
from edgepipe.pipeline import cli
from edgepipe.pipeline.storage import digits

from ..made import CLASSES, Made
from .outcomes import Done

COMMAND_LINE = get_command(cli.app)  # as calling the application makes it, each time anew


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no configuration, no environment of any runner."""
    for name in [name for name in os.environ if name.startswith("EDGEPIPE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(exporters, "_plugins", dict)  # looking for some takes longer than the rest
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """A workspace where the commands look for one: ``make(batch="dynamic")``."""
    return lambda **about: Made(tmp_path / "artifacts", **about)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """``command("bench", "--quick")``: the command line, in this process and with its exit codes.

    Not ``main``, which makes the process its own: signals, temporary files. What is a bug there
    is an exception here.
    """
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = cli._guarded(lambda: COMMAND_LINE([str(argument) for argument in arguments]), [])
        shown = capsys.readouterr()
        return Done(int(code or 0), shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two held-out digits of each class as files in class folders. Don't write to it."""
    root = tmp_path_factory.mktemp("photos")
    pictures, labels = digits.pictures("held_out")
    for label in range(CLASSES):
        (root / str(label)).mkdir(parents=True)
        for number in np.flatnonzero(labels == label)[:2]:
            Image.fromarray(pictures[number]).save(root / str(label) / f"{number}.png")
    return root
