"""Peak memory is the runner's: nothing of how the model came to the worker, or of the timing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgepipe.runners.base import Settings
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.workers.launch import Worker

ROWS = 4096
BARE = """
import re, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.zeros((1, %d), numpy.float32)})
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")


def one_matmul(folder: Path, columns: int) -> Path:
    """``columns`` / 64 MiB of weights, so that the file's size shows in the memory."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((ROWS, columns), np.float32)
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", ROWS), ("y", columns))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = numpy_helper.from_array(weights, "w")
    graph = helper.make_graph([node], "one_matmul", tensors[:1], tensors[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@linux
def test_it_is_that_of_the_same_session_in_a_bare_script(tmp_path: Path) -> None:
    model = one_matmul(tmp_path, columns=4096)
    with Worker(LOCAL.argv()) as worker:
        worker.load("ort-cpu", {model.name: model}, Settings(1))
        ours = worker.run({"x": np.zeros((1, ROWS), np.float32)}).peak_rss_mib
    command = [sys.executable, "-c", BARE % ROWS, str(model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # A worker's own modules take 9 MiB, the weights 64.
    assert ours == pytest.approx(int(done.stdout) / 1024, abs=16)


@linux
def test_timing_a_fast_model_adds_a_few_bytes_a_sample(tmp_path: Path) -> None:
    model = one_matmul(tmp_path, columns=1)
    feeds = {"x": np.zeros((1, ROWS), np.float32)}
    plan = Plan(2.0, 16, 30.0, window_seconds=0.05, warm_up_seconds=0.3)
    with Worker(LOCAL.argv()) as worker:
        worker.load("ort-cpu", {model.name: model}, Settings(1))
        before = worker.run(feeds).peak_rss_mib
        measured, peak = worker.measure(feeds, plan)
    assert len(measured.samples) > 10_000
    assert peak - before < 4 + 16 * len(measured.samples) / 2**20


def test_a_model_file_that_vanishes_is_a_failed_cell(tmp_path: Path) -> None:
    from edgepipe.runners.base import SessionError

    missing = tmp_path / "gone.onnx"
    with Worker(LOCAL.argv()) as worker, pytest.raises(SessionError, match=r"gone\.onnx"):
        worker.load("ort-cpu", {missing.name: missing}, Settings(1))
