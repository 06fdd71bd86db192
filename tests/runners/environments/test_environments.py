"""Environments of their own: what can be tried without the package index."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.runners.backends import probe
from edgepipe.runners.environments import own_wheel

Run = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("name", ["torch", "nothing", "../up"])
def test_a_runner_without_a_recipe(edgepipe: Run, name: str) -> None:
    done = edgepipe("env", "create", name)
    assert done.returncode == 2
    assert "known: ort-cpu" in done.stderr


def test_a_python_that_is_none(edgepipe: Run) -> None:
    done = edgepipe("env", "create", "ort-openvino", "--python", "/no/python")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/no/python" in done.stderr


def test_the_wheel_of_the_running_code_installs_and_works(tmp_path: Path) -> None:
    wheel = own_wheel.pack(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert {name.split("/")[0] for name in names} == {"edgepipe", "edgepipe-0.1.0.dist-info"}
    assert not any("__pycache__" in name for name in names)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(target), str(wheel)], check=True)
    code = "import edgepipe.runners.workers.worker as worker; print(worker.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(target))


def test_the_probe_tells_formats_apart() -> None:
    import numpy as np

    def rounded(mask: int) -> str:
        kept = (probe.feeds()[probe.INPUT].view(np.uint32) & np.uint32(mask)).view(np.float32)
        return probe.precision({probe.OUTPUT: kept})

    assert rounded(0xFFFFFFFF) == "f32"
    assert rounded(0xFFFFE000) == "tf32"
    assert rounded(0xFFFF0000) == "bf16"
    assert probe.precision({probe.OUTPUT: probe.feeds()[probe.INPUT].astype("f2")}) == "f16"
    assert rounded(0) == "unknown"


def test_the_probe_is_an_onnx_model_that_returns_its_input() -> None:
    import numpy as np
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load_from_string(probe.model()), full_check=True)
    session = onnxruntime.InferenceSession(probe.model(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, probe.feeds())
    assert np.array_equal(np.asarray(output), probe.feeds()[probe.INPUT])
