"""bench --soak over scripted and over real workers, with a leak planted in one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from typer.main import get_command

from edgepipe.pipeline import SoakResult, cli, soak
from edgepipe.pipeline.errors import UsageError
from edgepipe.runners.base import WorkerCrashed
from edgepipe.runners.workers.scripted import scripted

from ....made import Made

Run = Callable[..., CompletedProcess[str]]
# A runner that computes nothing and keeps so many bytes of every run; 1 MiB in 1,000 runs is 1049.
RUNNER = """
import os
import time
import numpy as np
from edgepipe.runners.base import Placement, TensorSpec

KEPT = []

class Session:
    inputs = (TensorSpec("input", "float32", (1, 3, 8, 8)),)
    outputs = (TensorSpec("logits", "float32", (1, 10)),)
    placement = Placement("CPU", "f32", 1, {"CPU": 1}, provider="CPU", precision_from="only one")

    def run(self, feeds):
        time.sleep(0.0002)
        lost = int(os.environ.get("LOST_BYTES", "0"))
        if lost:
            KEPT.append(b"x" * lost)
        return {"logits": np.ones((1, 10), np.float32)}

    def close(self):
        pass

class Runner:
    name = "mock"
    formats = ("onnx",)
    precisions = ("f32",)

    def version(self):
        return "1.0"

    def unavailable(self):
        return None

    def devices(self):
        return ("CPU",)

    def load(self, model, settings):
        return Session()
"""


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "artifacts", variants=("fp32",))


@pytest.fixture
def mock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner is an installed plug-in for every process that a test starts."""
    folder = tmp_path / "plug-in"
    about = folder / "mock_runner-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "mock_runner.py").write_text(RUNNER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mock-runner\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgepipe.runners]\nmock = mock_runner:Runner\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


def soaked(made: Made, **changes: Any) -> SoakResult:
    """A second of a scripted runner."""
    with scripted({"ort-cpu": made.script(**changes)}):
        return soak(duration="1s", workspace=made.root, runners=("ort-cpu",))


def leaking(runs: int) -> Mapping[str, Any]:
    return {"rss_mib": 100 + runs / 1000}


def test_a_healthy_runner_is_steady_and_ends_half_way(made: Made) -> None:
    found = soaked(made)
    assert (found.verdict, found.sentence, found.exit_code) == ("steady", "steady", 0)
    assert found.ended == "verdict"
    assert 0.5 <= found.seconds < 0.75
    assert found.runs > 100
    assert SoakResult.load(made.folder / "soak.json") == found


def test_a_leak_ends_it_early_and_fails_the_gate(made: Made) -> None:
    found = soaked(made, usage=leaking)
    assert (found.verdict, found.exit_code, found.ended) == ("leaks", 1, "verdict")
    assert re.match(r"leaks (1|0\.99\d) MiB per 1,000 runs \[", found.sentence)
    assert found.seconds < 0.5


def test_outputs_that_change_end_it_at_once(made: Made) -> None:
    found = soaked(made, deviation=0.5)
    assert (found.verdict, found.exit_code, found.slices) == ("wrong", 1, 1)
    assert found.notes[0] == "outputs changed while timed (by 50.0% of the largest)"


def test_a_worker_that_dies_leaves_what_was_read(made: Made) -> None:
    dying = made.script().failing(usage=WorkerCrashed("the worker ended: SIGKILL"))
    with scripted({"ort-cpu": dying}), pytest.raises(WorkerCrashed):
        soak(duration="1s", workspace=made.root, runners=("ort-cpu",))
    assert not (made.folder / "soak.json").exists()

    def later(runs: int) -> Mapping[str, Any]:
        if runs > 5000:
            raise WorkerCrashed("the worker ended: SIGKILL")
        return {}

    found = soaked(made, usage=later)
    assert (found.ended, found.exit_code) == ("worker", 5)
    assert found.notes[0] == f"after {found.runs:,} runs: the worker ended: SIGKILL"
    assert found.runs == pytest.approx(5000, abs=150)
    assert len(found.readings["rss_mib"]) == found.slices


def test_a_soak_is_of_one_cell_and_of_a_time(made: Made) -> None:
    with pytest.raises(UsageError, match="--runner: a soak is of one cell, name one"):
        soak(duration="1s", workspace=made.root, runners=("ort-cpu", "openvino"))
    with pytest.raises(UsageError, match=r"duration \(argument\): not a time such as"):
        soak(duration="8 hours", workspace=made.root)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--scenario", "offline"), "--scenario: not with --soak, which looks into one run"),
        (("--profile",), "--soak: not with --profile"),
    ],
)
def test_options_that_a_soak_does_not_have_are_refused(flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        get_command(cli.app).main(["bench", "--soak", "10s", *flags], standalone_mode=False)


def run_mock(edgepipe: Run, made: Made, time: str, lost: int) -> tuple[int, dict[str, Any]]:
    flags = ("--workspace", made.root, "--runner", "mock", "--json", "--quiet")
    done = edgepipe("bench", "--soak", time, *flags, env={"LOST_BYTES": str(lost)})
    assert done.returncode in (0, 1, 6), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.usefixtures("mock")
def test_a_mebibyte_that_a_real_process_loses_in_a_thousand_runs_is_found(
    edgepipe: Run, made: Made
) -> None:
    code, document = run_mock(edgepipe, made, "20s", 1049)
    assert (code, document["verdict"]) == (1, "leaks")
    low, high = document["growth"][0]["interval"]
    assert low < 1.1
    assert high > 0.9


@pytest.mark.long
@pytest.mark.usefixtures("mock")
def test_twenty_real_processes_that_lose_nothing_are_not_said_to(edgepipe: Run, made: Made) -> None:
    for _ in range(20):
        code, document = run_mock(edgepipe, made, "12s", 0)
        assert code in (0, 6), "slower at times, as the machine is"
        assert "leaks" not in [row["verdict"] for row in document["growth"]]


@pytest.mark.long
def test_a_real_model_on_a_real_runner_is_soaked(
    edgepipe: Run, exported: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(exported, tmp_path / "artifacts"))
    flags = ("--workspace", root, "--runner", "ort-cpu", "--variant", "fp32", "--threads", "1")
    done = edgepipe("bench", "--soak", "30s", *flags)
    assert done.returncode in (0, 6), done.stdout + done.stderr
    assert "per 1,000 runs" in done.stdout
    document = json.loads((root / "mobilenet_v2" / "soak.json").read_text())
    assert "leaks" not in [row["verdict"] for row in document["growth"]]
    assert document["readings"]["rss_mib"][-1] > 50
