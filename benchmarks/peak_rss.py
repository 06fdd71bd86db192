"""Is the peak RSS that bench shows the runner's own? Against the same session in a bare script.

    python benchmarks/peak_rss.py [--runs 3]

For two models of one MatMul (8 and 256 MiB of weights), on ort-cpu and openvino: the process's
VmHWM after loading the file and running it, once in a worker as bench uses it, once in a script
that imports nothing but numpy and the library. The median of the runs; a ratio of 1 is the truth.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgepipe.runners.base import Settings
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.workers.launch import Worker

MEBIBYTES = (8, 256)
SCRIPTS = {
    "ort-cpu": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
session.run(None, {"x": x})
""",
    "openvino": """
import openvino
core = openvino.Core()
settings = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
}
compiled = core.compile_model(core.read_model(model), "CPU", settings)
compiled.create_infer_request().infer({"x": x})
""",
}
BEFORE = """
import re
import sys
import numpy
model = sys.argv[1]
x = numpy.zeros((1, int(sys.argv[2])), numpy.float32)
"""
AFTER = r"""
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def make(path: Path, mebibytes: int) -> int:
    """Write an ONNX file with so many weights; returns how many inputs it takes."""
    from onnx import TensorProto, helper, numpy_helper

    rows = 8192
    weights = np.random.default_rng(0).standard_normal((rows, mebibytes * 32), np.float32)
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", rows), ("y", mebibytes * 32))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one_matmul",
        tensors[:1],
        tensors[1:],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return rows


def in_worker(runner: str, model: Path, inputs: int) -> float:
    """MiB, as bench has it from its worker."""
    with Worker(LOCAL.argv()) as worker:
        worker.load(runner, {model.name: model}, Settings(1))
        return worker.run({"x": np.zeros((1, inputs), np.float32)}).peak_rss_mib


def in_script(runner: str, model: Path, inputs: int) -> float:
    """MiB, of the bare script."""
    command = [sys.executable, "-c", BEFORE + SCRIPTS[runner] + AFTER, str(model), str(inputs)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a line for each model and runner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        for mebibytes in MEBIBYTES:
            model = Path(folder) / f"{mebibytes}.onnx"
            inputs = make(model, mebibytes)
            for runner in SCRIPTS:
                ours, bare = (
                    statistics.median(measured(runner, model, inputs) for _ in range(runs))
                    for measured in (in_worker, in_script)
                )
                print(
                    f"{runner:9} {mebibytes:4} MiB of weights: bench {ours:6.1f} MiB, "
                    f"bare script {bare:6.1f} MiB, ratio {ours / bare:.3f}"
                )


if __name__ == "__main__":
    main()
