"""FAULTS row 31: judging needs neither torch nor onnx nor onnxsim; only exporting does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]

# Runs at the start of this interpreter and of every worker it starts.
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxsim", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def without_torch(edgepipe: Run, workspace: Path, tmp_path: Path) -> Run:
    """The command line on the default workspace, where those libraries can't be imported."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return lambda *arguments: edgepipe(
        *arguments, "--workspace", workspace, env={"PYTHONPATH": path}
    )


@pytest.mark.parametrize(
    "command",
    [("parity", "--samples", "16"), ("bench", "--quick"), ("evaluate",)],
    ids=lambda command: command[0],
)
def test_judging_works(command: tuple[str, ...], without_torch: Run) -> None:
    done = without_torch(*command, "--runner", "ort-cpu", "--variant", "int8-avx2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "int8-avx2" in done.stdout


def test_the_torch_runner_is_reported_as_missing_and_no_more(without_torch: Run) -> None:
    done = without_torch("parity", "--samples", "16", "--variant", "fp32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "torch/local: unavailable: No module named 'torch'; pip install \"edgepipe[export]\""
        in (done.stdout)
    )


@pytest.mark.parametrize(
    "command", [("export", "--force"), ("parity", "--explain", "--runner", "ort-cpu")]
)
def test_what_needs_them_says_what_to_install(command: tuple[str, ...], without_torch: Run) -> None:
    done = without_torch(*command)
    assert done.returncode == 5, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgepipe: ")
    assert "pip install" in last
    assert "Traceback" not in done.stderr
