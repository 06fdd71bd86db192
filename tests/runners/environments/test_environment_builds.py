"""Builds of environments that don't come to their end: killed, interrupted, refused.

The real command, the real venv and pip; only the package index is one that refuses, or that
takes every question and never answers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from edgepipe.runners.environments import environments

Run = Callable[..., CompletedProcess[str]]
RUNNER = "ort-openvino"
PATIENCE_SECONDS = 60.0


def index(url: str) -> dict[str, str]:
    """An environment in which pip has this package index and no other."""
    return {
        "PIP_INDEX_URL": url,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }


# Every name that pip would look up is refused at once.
OFFLINE = index("http://127.0.0.1:9/simple")


@dataclass(frozen=True)
class Build:
    """A running ``edgepipe env create`` whose pip hangs in a question to its index."""

    process: subprocess.Popen[str]
    envs: Path

    def others(self) -> list[psutil.Process]:
        """Every process that works on this build, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.envs) in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def envs(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "edgepipe" / "envs"


@pytest.fixture
def build(envs: Path, tmp_path: Path) -> Iterator[Build]:
    (tmp_path / "tmp").mkdir()
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_SECONDS)
        silent = index(f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        process = subprocess.Popen(
            [sys.executable, "-m", "edgepipe.pipeline.cli", "env", "create", RUNNER],
            env=os.environ | silent | places,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        question, _ = server.accept()
        with question:
            running = Build(process, envs)
            yield running
            for one in running.others():
                one.kill()
            process.kill()
            process.communicate()


@pytest.fixture
def finished(envs: Path) -> Path:
    """What passes for a finished environment at a glance: its folder."""
    folder = envs / f"{RUNNER}@finished"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    environment = environments.Environment(
        RUNNER, folder.name, "base", environments.version("edgepipe"), CODE, {}
    )
    fields = {"schema_version": environments.SCHEMA_VERSION, **vars(environment)}
    (envs / f"{RUNNER}.json").write_text(json.dumps(fields))
    return folder


CODE = environments.own_wheel.runners_digest()


def builds(envs: Path) -> list[Path]:
    return sorted(envs.glob("*@*"))


def listed(edgepipe: Run) -> list[tuple[str, str]]:
    document = json.loads(edgepipe("env", "list", "--json").stdout)
    return [(one["folder"], one["state"]) for one in document["environments"]]


def test_an_index_that_can_not_be_reached_leaves_nothing(edgepipe: Run, envs: Path) -> None:
    done = edgepipe("env", "create", RUNNER, env=OFFLINE)
    assert done.returncode == 5, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"edgepipe: pip can't install {RUNNER}: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in envs.iterdir()] == [f"{RUNNER}.lock"]


def test_the_one_before_stays_until_there_is_a_new_one(
    edgepipe: Run, envs: Path, finished: Path
) -> None:
    done = edgepipe("env", "create", RUNNER, env=OFFLINE)
    assert done.returncode == 5
    assert "making it anew" in done.stderr, "it can't run a model"
    assert builds(envs) == [finished]
    assert listed(edgepipe) == [(str(finished), "ready")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_build_takes_pip_along_and_leaves_nothing(
    build: Build, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    build.process.send_signal(number)
    said, _ = build.process.communicate(timeout=PATIENCE_SECONDS)
    assert build.process.returncode == code, said
    assert "Traceback" not in said
    assert eventually(lambda: not build.others())
    assert [path.name for path in build.envs.iterdir()] == [f"{RUNNER}.lock"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.long
def test_a_killed_build_takes_pip_along_and_the_next_one_tidies_up(
    build: Build, edgepipe: Run, finished: Path, tmp_path: Path
) -> None:
    build.process.kill()
    assert eventually(lambda: not build.others()), "pip outlived who started it"
    left = [path.name for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
    assert left == [".owner"], "pip left files of its own"
    (killed,) = set(builds(build.envs)) - {finished}
    assert listed(edgepipe) == [(str(finished), "ready")]
    assert edgepipe("env", "create", RUNNER, env=OFFLINE).returncode == 5
    assert builds(build.envs) == [finished]
    assert not killed.exists()


@pytest.mark.long
def test_a_build_of_another_process_is_waited_for_and_left_alone(
    build: Build, finished: Path, tmp_path: Path
) -> None:
    before = builds(build.envs)
    assert len(before) == 2
    second = subprocess.Popen(
        [sys.executable, "-m", "edgepipe.pipeline.cli", "env", "remove", RUNNER],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert second.stderr
    assert "another process is at work on it" in second.stderr.readline()
    assert builds(build.envs) == before
    build.process.terminate()
    said, wrong = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, wrong
    assert said == f"removed {finished}\n"
    assert builds(build.envs) == []


def test_what_a_killed_build_left_is_listed_and_removed(edgepipe: Run, envs: Path) -> None:
    folder = envs / f"{RUNNER}@killed"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("#!/bin/sh\nexit 7\n")
    assert listed(edgepipe) == [(str(folder), "unfinished")]
    done = edgepipe("env", "remove", RUNNER)
    assert (done.returncode, done.stdout) == (0, f"removed {folder}\n")
    assert not folder.exists()
    done = edgepipe("env", "remove", RUNNER)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_environment_in_use_is_left_until_the_command_ends(
    edgepipe: Run, envs: Path, finished: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from edgepipe.pipeline import environments\n"
        f"print(environments.python_of({RUNNER!r}), flush=True); sys.stdin.read()"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout
    assert user.stdout.readline().strip() == str(finished / "bin" / "python")
    done = edgepipe("env", "remove", RUNNER)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{finished}: in use by another command" in done.stderr
    assert (finished / "bin" / "python").exists()
    user.communicate("")
    assert edgepipe("env", "remove", RUNNER).stdout == f"removed {finished}\n"
    assert builds(envs) == []
