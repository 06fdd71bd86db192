"""Does bench tell the truth, and does edgepipe cost little? Ratios, each pair in one run.

    python benchmarks/harness.py [--pairs 24] [--only parity]

The two sides of every ratio are measured in turn, in fresh processes, in alternating order, so
that a slow moment of the machine hits both. Printed: the median of the pairs' ratios, its 95 %
interval (order statistics), and the limit it is held to. Exit status 1 if a median is above.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgepipe.pipeline import bench

RUNNERS = ("ort-cpu", "openvino")
VARIANTS = ("fp32", "int8")
SECONDS = 1.0
PARITY_CELLS = (
    *((runner, f"{name}.onnx") for runner in RUNNERS for name in ("fp32", "int8", "int8-avx2")),
    ("torch", "fp32.pt2"),
)
# What parity may cost: this many times the inference itself, and a second for each worker.
PARITY_FACTOR = 3
PARITY_SECONDS_A_WORKER = 1.0
PARITY_THREADS = 1
BARE_LOOP = Path(__file__).parent / "bare_loop.py"
CLI = (sys.executable, "-m", "edgepipe.pipeline.cli")


def bench_p50(workspace: Path, runner: str, variant: str, threads: int) -> float:
    """p50 in ms as bench reports it: one generation, so that it can be paired."""
    result = bench(
        workspace=workspace,
        runners=(runner,),
        variants=(variant,),
        threads=threads,
        generations=1,
        seconds=SECONDS,
    )
    latency = result.cells[0].latency_ms
    assert latency, result.cells[0].reason
    return latency.p50


def offline_throughput(workspace: Path, variant: str) -> float:
    """Images per second on openvino as bench reports them."""
    result = bench(
        workspace=workspace,
        runners=("openvino",),
        variants=(variant,),
        scenario="offline",
        generations=1,
        seconds=3 * SECONDS,
    )
    throughput = result.cells[0].throughput_per_s
    assert throughput, result.cells[0].reason
    return throughput


def benchmark_app_throughput(workspace: Path, variant: str) -> float:
    """Images per second as OpenVINO's benchmark_app reports them."""
    command = [Path(sys.executable).with_name("benchmark_app"), "-d", "CPU"]
    command += ["-m", workspace / "mobilenet_v2" / f"{variant}.onnx", "-hint", "throughput"]
    command += ["-infer_precision", "f32", "-t", f"{3 * SECONDS:g}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"Throughput: +([\d.]+) FPS", done.stdout)
    assert found, done.stdout
    return float(found[1])


def bare_p50(workspace: Path, runner: str, variant: str, threads: int) -> float:
    """p50 in ms of a loop that knows nothing of edgepipe, in a process of its own."""
    folder = workspace / "mobilenet_v2"
    command = [sys.executable, BARE_LOOP, runner, folder / f"{variant}.onnx"]
    command += [folder / "goldens.npz", str(threads), str(SECONDS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def parity_command(workspace: str) -> tuple[str, ...]:
    """All variants and goldens on the three runners that come with the default installation."""
    runners = [flag for runner in (*RUNNERS, "torch") for flag in ("--runner", runner)]
    threads = ("--threads", str(PARITY_THREADS))
    return (*CLI, "parity", "--workspace", workspace, "--quiet", *threads, *runners)


def parity_allowance(workspace: Path) -> float:
    """What parity may take, in seconds, by the bare inference that has just been measured."""
    bare = bare_goldens(workspace, PARITY_THREADS)
    return PARITY_FACTOR * bare + PARITY_SECONDS_A_WORKER * len(PARITY_CELLS)


def bare_goldens(workspace: Path, threads: int) -> float:
    """Seconds of inference for all goldens on every cell of the default parity, run bare."""
    folder = workspace / "mobilenet_v2"
    spent = 0.0
    for runner, file in PARITY_CELLS:
        command = [sys.executable, BARE_LOOP, runner, folder / file]
        command += [folder / "goldens.npz", str(threads), "once"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        spent += float(done.stdout)
    return spent


def seconds(command: Sequence[str]) -> float:
    """Wall time of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def paired(a: Callable[[], float], b: Callable[[], float], pairs: int) -> list[float]:
    """Ratios a/b of pairs measured one right after the other, in alternating order."""
    ratios = []
    for number in range(pairs):
        if number % 2:
            below = b()
            ratios.append(a() / below)
        else:
            above = a()
            ratios.append(above / b())
    return ratios


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics (binomial, normal approximation)."""
    ordered, count = sorted(ratios), len(ratios)
    half = 1.96 * math.sqrt(count) / 2
    low, high = math.floor(count / 2 - half), math.ceil(count / 2 + half)
    return ordered[max(0, low)], ordered[min(count - 1, high)]


def main() -> None:
    """Measure and print one line a ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24, help="pairs for each ratio")
    parser.add_argument("--only", default="", metavar="TEXT", help="ratios with this in the name")
    arguments = parser.parse_args()
    pairs = arguments.pairs
    failed = False

    def report(
        name: str, measure: Callable[[], list[float]], limit: float, low: float = 0.0
    ) -> None:
        nonlocal failed
        if arguments.only not in name:
            return
        ratios = measure()
        median = float(np.median(ratios))
        bounds = "{:.3f} to {:.3f}".format(*interval(ratios))
        ok = low <= median <= limit
        failed |= not ok
        wanted = f"{low:g} to {limit:g}" if low else f"at most {limit:g}"
        verdict = "ok" if ok else "ABOVE THE LIMIT" if median > limit else "BELOW THE LIMIT"
        print(f"{name:<50} {median:.3f}  [{bounds}]  {wanted}: {verdict}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        export = (*CLI, "export", "--workspace", folder, "--quiet")
        first = seconds(export)
        report(
            "second export / first export",
            lambda: [seconds(export) / first for _ in range(pairs)],
            0.05,
        )
        report(
            "edgepipe --help / python -c 'import typer'",
            lambda: paired(
                lambda: seconds((*CLI, "--help")),
                lambda: seconds((sys.executable, "-c", "import typer")),
                pairs,
            ),
            3.0,
        )
        for runner in RUNNERS:
            for variant in VARIANTS:
                report(
                    f"bench / bare loop: {runner} {variant}, 1 thread",
                    lambda r=runner, v=variant: paired(
                        lambda: bench_p50(workspace, r, v, 1),
                        lambda: bare_p50(workspace, r, v, 1),
                        pairs,
                    ),
                    limit=1.03,
                    low=0.97,
                )
        for variant in VARIANTS:
            report(
                f"offline / benchmark_app -hint throughput: {variant}",
                lambda v=variant: paired(
                    lambda: offline_throughput(workspace, v),
                    lambda: benchmark_app_throughput(workspace, v),
                    pairs,
                ),
                limit=1.05,
                low=0.95,
            )
        for runner, limit in (("ort-cpu", 0.55), ("openvino", 0.45)):
            report(
                f"int8 / fp32: {runner}, 1 thread (VNNI)",
                lambda r=runner: paired(
                    lambda: bench_p50(workspace, r, "int8", 1),
                    lambda: bench_p50(workspace, r, "fp32", 1),
                    pairs,
                ),
                limit,
            )
        report(
            "parity / (3 x bare inference + 1 s a worker)",
            lambda: paired(
                lambda: seconds(parity_command(folder)),
                lambda: parity_allowance(workspace),
                pairs,
            ),
            1.0,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
