"""ort-cuda on a GPU: how near, how fast, and how fast bare loops with the same settings are.

    python benchmarks/cuda.py [--workspace DIR] [--rehearse]

Takes under four minutes on a GPU: an export (fp32 and fp16) unless it is there, parity, and for
each way to run a session p50 of edgepipe's worker beside that of a bare loop in ort-cuda's own
interpreter; then what tune recommends for fp16. A sample goes from the host to the host; "resident"
is the bare loop that copies nothing. Exit status 5 where ort-cuda can't run, with the reason.
``--rehearse`` runs the same on the CPU's provider, to try the script: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bare_loop import p50_ms

MODEL = "mobilenet_v2"
SECONDS, TUNE_BUDGET, TIME_LIMIT = 0.5, 40.0, 60.0
# Variant and precision, and the options of the session with the name of the bare loop like it.
PRECISIONS = (("fp32", "f32"), ("fp32", "tf32"), ("fp16", "f16"))
WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "heuristic": {"cudnn_conv_algo_search": "HEURISTIC"},
    "nhwc": {"prefer_nhwc": True},
    "bound": {"io_binding": True},
    "graph": {"cuda_graph": True},
}
RESIDENT = "resident"
ALL_WAYS = (*WAYS, RESIDENT)

Run = Callable[[], Any]


def main() -> int:
    """Run all of it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("artifacts"))
    parser.add_argument("--rehearse", action="store_true", help="on the CPU's provider")
    parser.add_argument("--bare", nargs=4, metavar="X", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare:
        model, fed, provider, precision = asked.bare
        every = {way: bare(model, np.load(fed), provider, precision, way) for way in ALL_WAYS}
        print(json.dumps(every))
        return 0
    return everything(asked.workspace, "ort-cpu" if asked.rehearse else "ort-cuda")


def everything(workspace: Path, runner: str) -> int:
    """Export, parity, times and tune, a line for each figure."""
    from edgepipe.pipeline import export, parity, runners, tune

    (found,) = (one for one in runners().runners if one.name == runner)
    if found.status != "ok":
        print(f"{runner}: {found.reason}", file=sys.stderr)
        return 5
    print(f"{runner} {found.version} on {', '.join(found.devices)}: {found.remark or ''}")
    python = found.python or sys.executable
    export(MODEL, workspace=workspace, variants=("fp32", "fp16"))
    rehearsal = runner == "ort-cpu"
    precisions = ("f32",) if rehearsal else ("f32", "tf32", "f16")
    judged = parity(workspace=workspace, model=MODEL, runners=(runner,), precisions=precisions)
    for row in judged.cells:
        where = f"{row.variant} {row.precision} ({row.precision_from})"
        print(
            f"parity {where}: {row.verdict}, {row.sqnr_db} dB, {row.placement} {row.reason or ''}"
        )
    for variant, precision in PRECISIONS:
        asked = "f32" if rehearsal else precision
        beside = in_process(python, workspace / MODEL, variant, runner, asked)
        for way, options in WAYS.items():
            said = {} if rehearsal else options
            own = ours(workspace / MODEL, variant, runner, asked, found.python, said)
            told = beside.get(way)
            ratio = f"{own / told:.3f}" if isinstance(own, float) and told else "–"
            print(f"p50 {variant} {precision} {way}: edgepipe {own}, bare {told}, ratio {ratio}")
        print(f"p50 {variant} {precision} {RESIDENT}: bare {beside.get(RESIDENT)}", flush=True)
    tuned = tune(workspace=workspace, model=MODEL, runners=(runner,), variants=("fp16",),
                 budget=TUNE_BUDGET)  # fmt: skip
    for row in tuned.cells:
        print(f"tune {row.variant}: {row.verdict or row.status}: {row.reason} {dict(row.settings)}")
    return 0


def ours(
    folder: Path,
    variant: str,
    runner: str,
    precision: str,
    python: str | None,
    options: Mapping[str, Any],
) -> float | str:
    """p50 in ms of one image in edgepipe's worker, or why there is none."""
    from edgepipe.pipeline.cells.session import Cell, open_cell
    from edgepipe.runners import registry
    from edgepipe.runners.base import RunnerError
    from edgepipe.runners.targets import LOCAL
    from edgepipe.runners.timing.plan import Plan

    cell = Cell(variant, runner, LOCAL, precision, f"{variant}.onnx", None, python)
    cell = replace(cell, device=registry.device(runner), options=tuple(options.items()))
    plan = Plan(SECONDS, 64, 10.0, 0.05, 1.0)
    try:
        with open_cell(cell, folder / cell.file) as opened:
            name = opened.loaded.inputs[0].name
            measured, _ = opened.worker.measure({name: image(folder)}, plan)
    except RunnerError as error:
        return str(error)
    return round(float(np.median(measured.samples)) / 1e6, 4)


def in_process(
    python: str, folder: Path, variant: str, runner: str, precision: str
) -> dict[str, float]:
    """p50 in ms of each bare loop, in a process of the runner's interpreter."""
    pixels = folder.parent / "cuda-image.npy"
    np.save(pixels, image(folder))
    provider = "CPUExecutionProvider" if runner == "ort-cpu" else "CUDAExecutionProvider"
    given = (str(folder / f"{variant}.onnx"), str(pixels), provider, precision)
    command = [python, __file__, "--bare", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    if done.returncode:
        print(f"bare loops: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    return {way: round(float(p50), 4) for way, p50 in json.loads(done.stdout).items()}


def image(folder: Path) -> np.ndarray:
    """The first golden as edgepipe feeds it, float32 [1, 3, H, W]."""
    pixels = np.load(folder / "goldens.npz")["images"][:1].astype(np.float32) / np.float32(255)
    normalization = json.loads((folder / "manifest.json").read_text())["preprocessing"]
    mean, std = (np.float32(normalization[name]) for name in ("mean", "std"))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2))


def bare(model: str, pixels: np.ndarray, provider: str, precision: str, way: str) -> float:
    """p50 in ms of a session that edgepipe has nothing to do with."""
    import onnxruntime

    gpu = provider != "CPUExecutionProvider"
    options: dict[str, str] = {}
    if gpu:
        onnxruntime.preload_dlls()
        options = {"use_tf32": str(int(precision == "tf32"))}
        options |= {"cudnn_conv_algo_search": "HEURISTIC"} if way == "heuristic" else {}
        options |= {"prefer_nhwc": "1"} if way == "nhwc" else {}
        options |= {"enable_cuda_graph": "1"} if way in ("graph", RESIDENT) else {}
    session = onnxruntime.InferenceSession(model, providers=[(provider, options)])
    name, output = session.get_inputs()[0].name, session.get_outputs()[0]
    if way not in ("bound", "graph", RESIDENT):
        return p50_ms(lambda feeds: session.run(None, feeds), {name: pixels}, SECONDS)
    device = "cuda" if gpu else "cpu"
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    there = make(list(pixels.shape), np.float32, device, 0)
    back = make(output.shape, np.float32, device, 0)
    there.update_inplace(pixels)
    binding = session.io_binding()
    binding.bind_ortvalue_input(name, there)
    binding.bind_ortvalue_output(output.name, back)

    def run(feeds: Mapping[str, np.ndarray]) -> Any:
        if way == RESIDENT:
            return session.run_with_iobinding(binding)
        there.update_inplace(feeds[name])
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        return back.numpy()

    return p50_ms(run, {name: pixels}, SECONDS)


if __name__ == "__main__":
    sys.exit(main())
