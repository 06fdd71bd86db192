"""A bare timing loop without edgepipe: what bench's numbers are compared with.

    python benchmarks/bare_loop.py ort-cpu model.onnx goldens.npz THREADS SECONDS
    python benchmarks/bare_loop.py ort-cpu model.onnx goldens.npz THREADS once
    python benchmarks/bare_loop.py ort-cpu model.onnx goldens.npz THREADS turns

Prints the p50 of `session.run` on one image in ms, after a warm-up; or, with `once`, the seconds
that every golden takes together, each run once; or, with `turns`, the p50 of 50 ms for each line
that it reads, the first run of which doesn't count. Loading and preprocessing are not in either.
Same settings as the runners', written out again here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

WARM_UP_SECONDS = 1.0
TURN_SECONDS, TURN_RUNS = 0.05, 5


Feeds = Mapping[str, np.ndarray]


def ort_cpu(model: str, threads: int) -> Callable[[Feeds], Any]:
    """One onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def openvino(model: str, threads: int) -> Callable[[Feeds], Any]:
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
    return lambda feeds: request.infer(feeds, share_inputs=True)


def torch(model: str, threads: int) -> Callable[[Feeds], Any]:
    """The exported program, eager kernels."""
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(model).module()

    def run(feeds: Feeds) -> Any:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, feeds.values()))

    return run


def p50_ms(run: Callable[[Feeds], Any], feeds: Feeds, seconds: float) -> float:
    """Warm up, then time for at least ``seconds``."""
    end = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < end:
        run(feeds)
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter_ns()
        run(feeds)
        samples.append(time.perf_counter_ns() - before)
    return float(np.median(samples)) / 1e6


def turns(run: Callable[[Feeds], Any], feeds: Feeds) -> None:
    """A stretch of runs whenever it is asked for, which stops once there is nothing to read."""
    p50_ms(run, feeds, 0.1)
    print("ready", flush=True)
    for _ in sys.stdin:
        run(feeds)
        samples: list[int] = []
        end = time.perf_counter() + TURN_SECONDS
        while time.perf_counter() < end or len(samples) < TURN_RUNS:
            before = time.perf_counter_ns()
            run(feeds)
            samples.append(time.perf_counter_ns() - before)
        print(float(np.median(samples)) / 1e6, flush=True)


def main() -> None:
    """Load, run, time."""
    runner, model, goldens, threads, seconds = sys.argv[1:]
    images = np.load(goldens)["images"].astype(np.float32) / np.float32(255)
    tensor = np.ascontiguousarray(
        ((images - np.float32(0.5)) / np.float32(0.5)).transpose(0, 3, 1, 2)
    )
    feeds = [{"input": tensor[row : row + 1]} for row in range(len(tensor))]
    load = {"ort-cpu": ort_cpu, "openvino": openvino, "torch": torch}[runner]
    run = load(model, int(threads))
    if seconds == "turns":
        turns(run, feeds[0])
        return
    if seconds != "once":
        print(p50_ms(run, feeds[0], float(seconds)))
        return
    started = time.perf_counter()
    for one in feeds:
        run(one)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
