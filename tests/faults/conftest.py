"""What the fault tests share: a small export, and command lines that can be hit while they run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

PATIENCE_SECONDS = 120.0
KILL_MOMENTS = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Only seen where this folder is named: ``pytest tests/faults --kill-moments 200``."""
    parser.addoption(
        "--kill-moments",
        type=int,
        default=KILL_MOMENTS,
        metavar="N",
        help="how many exports test_kill.py kills, at moments spread over a clean run",
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert an expected failure: its exit code, and one line that holds all the words."""
    line = done.stderr.strip()
    assert done.returncode == code, line.splitlines()[-1]
    assert "\n" not in line
    assert line.startswith("edgepipe: ")
    assert done.stdout == ""
    for word in words:
        assert word in line


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, which stays for good. Empty if it isn't there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def eventually(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether a condition comes true before patience runs out."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@dataclass(frozen=True)
class Small:
    """An export that takes seconds: its workspace, and the seconds that a clean run took."""

    root: Path
    seconds: float
    settings: ClassVar = ("--weights", "random", "--input-size", "64")
    options: ClassVar = {"weights": "random", "input_size": 64}

    @property
    def files(self) -> dict[str, bytes]:
        """What a clean run leaves in the model's folder."""
        return snapshot(self.root / "mobilenet_v2")


class Command:
    """A running ``edgepipe`` in a session of its own, its temporary files in a folder of theirs."""

    def __init__(self, folder: Path, *arguments: str | Path, **environment: str) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        self._log = folder / "stderr.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgepipe.pipeline.cli", *map(str, arguments)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.temporary), **environment},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a moment in its life; fails if it ends before."""
        eventually(lambda: self.process.poll() is not None or condition())
        assert self.process.poll() is None, f"ended before the moment: {self.said}"
        assert condition(), "the moment never came"

    def cpu_seconds(self) -> float:
        """CPU time that it has used itself."""
        return psutil.Process(self.process.pid).cpu_times().user

    def maps(self, library: str) -> bool:
        """Whether it has loaded a shared library."""
        maps = psutil.Process(self.process.pid).memory_maps()
        return any(library in mapped.path for mapped in maps)

    def child(self, module: str) -> psutil.Process | None:
        """A process that it started to run ``python -m module``."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if module in child.cmdline():
                    return child
            except psutil.Error:  # it ended meanwhile
                continue
        return None

    def relatives(self) -> list[psutil.Process]:
        """Every process that inherited its environment, whoever is its parent now."""
        found = []
        for process in psutil.process_iter():
            try:
                folder = process.environ().get("TMPDIR", "")
            except psutil.Error:  # ended, a zombie, or another user's
                continue
            if folder.startswith(str(self.temporary)):
                found.append(process)
        return found

    def kill(self) -> None:
        """SIGKILL to the whole process group, unless it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A small export with all variants, made by a clean run. Don't write to it."""
    folder = tmp_path_factory.mktemp("small")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edgepipe.pipeline.cli", "export", *Small.settings],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Small(folder / "artifacts", time.monotonic() - started)


@pytest.fixture
def small_workspace(small: Small, tmp_path: Path) -> Path:
    """A copy of ``small`` that a test may break."""
    return Path(shutil.copytree(small.root, tmp_path / "artifacts"))


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Start command lines: ``start("export", "--workspace", folder)``. What is left is killed."""
    started: list[Command] = []

    def start(*arguments: str | Path, **environment: str) -> Command:
        command = Command(tmp_path_factory.mktemp("command"), *arguments, **environment)
        started.append(command)
        return command

    yield start
    for command in started:
        for process in command.relatives():
            process.kill()
        command.process.wait()
