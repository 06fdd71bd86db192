"""A bare timing loop without edgepipe: what bench's numbers are compared with.

    python benchmarks/bare_loop.py ort-cpu model.onnx goldens.npz THREADS SECONDS

Prints the p50 of `session.run` in ms. Same settings as the runners', written out again here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_SECONDS = 1.0


def ort_cpu(model: str, threads: int, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    """One onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino(model: str, threads: int, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    """One OpenVINO infer request, f32, latency hint, one stream."""
    import openvino

    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        },
    )
    request = compiled.create_infer_request()
    return lambda: request.infer(feeds, share_inputs=True)


def main() -> None:
    """Load, warm up, time."""
    runner, model, goldens, threads, seconds = sys.argv[1:]
    image = np.load(goldens)["images"][:1].astype(np.float32) / np.float32(255)
    tensor = np.ascontiguousarray(
        ((image - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)
    )
    load = {"ort-cpu": ort_cpu, "openvino": openvino}[runner]
    run = load(model, int(threads), {"input": tensor})
    end = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < end:
        run()
    samples = []
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        before = time.perf_counter_ns()
        run()
        samples.append(time.perf_counter_ns() - before)
    print(np.median(samples) / 1e6)


if __name__ == "__main__":
    main()
