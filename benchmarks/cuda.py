"""Runners on a GPU against bare loops on the same card: how near, how fast, and whether that holds.

    python benchmarks/cuda.py [--workspace DIR] [--part NAME]... [--rehearse]

Parts, in their order: parity (fp32 in f32 and tf32, fp16), latency (p50 of edgepipe's worker beside
bare loops with the same settings), peers (torch, eager and as a CUDA graph), int8, offline (the
most images per second beside a bare loop at batch 128), tensorrt, zoo (parity of two more models
with its explanation). Each line "judged" has a ratio, its limit and whether it holds; a part that
would begin after 200 s is not run, and says so. Exit status 5 where ort-cuda can't run, with the
reason; what else is missing is a reason in its part. An export that isn't there is made first: its
time is told apart, since it is the CPU's.

``--rehearse`` runs the same on the CPU's provider, to try the script: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from bare_loop import p50_ms

MODEL, DYNAMIC, LARGE = "mobilenet_v2", "dynamic", 128
ZOO = ("resnet18", "mobilenet_v3_small")
SECONDS, TIME_LIMIT, DEADLINE = 0.5, 90.0, 200.0
OFFLINE_BUDGET = 40.0
# The options of a session with the name of the bare loop like it.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "heuristic": {"cudnn_conv_algo_search": "HEURISTIC"},
    "nhwc": {"prefer_nhwc": True},
    "bound": {"io_binding": True},
    "graph": {"cuda_graph": True},
}
RESIDENT = "resident"
TENSORRT = (("fp32", "f32"), ("fp32", "f16"), ("fp16", "f16"), ("int8", "f32"))
# Variant, precision, and the ways that are tried.
PRECISIONS = (
    ("fp32", "f32", ("plain", "bound", "graph")),
    ("fp32", "tf32", ("plain", "graph")),
    ("fp16", "f16", tuple(WAYS)),
)
# What the figures are held against.
NEAR, DEFAULT_LIMIT, OFFLINE_SHARE = 1.03, 1.1, 0.95


@dataclass
class Card:
    """Where it runs: a GPU, or the CPU in its place. ``best_ms`` are the fastest bare graphs."""

    workspace: Path
    rehearsal: bool
    python: str | None = None
    best_ms: dict[str, float] = field(default_factory=dict)
    default_ms: dict[str, float] = field(default_factory=dict)

    @property
    def runner(self) -> str:
        return "ort-cpu" if self.rehearsal else "ort-cuda"

    @property
    def folder(self) -> Path:
        return self.workspace / MODEL

    def precision(self, asked: str) -> str:
        return "f32" if self.rehearsal else asked

    def options(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {} if self.rehearsal else asked


def main() -> int:
    """Run all of it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("artifacts"))
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU's provider")
    parser.add_argument("--bare", nargs="+", metavar="X", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare:
        return bare_loops(*asked.bare)
    from edgepipe.pipeline import runners

    card = Card(asked.workspace, asked.rehearse)
    (found,) = (one for one in runners().runners if one.name == card.runner)
    if found.status != "ok":
        print(f"{card.runner}: {found.reason}", file=sys.stderr)
        return 5
    card.python = found.python
    print(f"{card.runner} {found.version} on {', '.join(found.devices)}: {found.remark or ''}")
    prepare(card)
    started = time.monotonic()
    for name in asked.part or PARTS:
        passed = time.monotonic() - started
        if passed > DEADLINE:
            print(f"{name}: not run, {passed:.0f} s have passed; --part {name}", flush=True)
            continue
        print(f"== {name} ({passed:.0f} s)", flush=True)
        PARTS[name](card)
    print(f"all of it: {time.monotonic() - started:.0f} s")
    return 0


def judged(what: str, ratio: float, limit: float, *, least: bool = False) -> None:
    """A line for a figure that has a limit."""
    holds = ratio >= limit if least else ratio <= limit
    which = "at least" if least else "at most"
    print(f"judged {what}: {ratio:.3f}, {which} {limit}: {'holds' if holds else 'FAILS'}")


def prepare(card: Card) -> None:
    """Export what isn't there: the default model, with an open batch too, and two of the zoo."""
    from edgepipe.pipeline import export

    began = time.monotonic()
    small: dict[str, Any] = {"weights": "random", "input_size": 64, "recipe": "minmax"}
    how = small if card.rehearsal else {}
    export(MODEL, workspace=card.workspace, variants=("fp32", "fp16", "int8"), **how)
    dynamic = card.workspace / DYNAMIC
    export(MODEL, workspace=dynamic, variants=("fp32", "fp16"), batch="dynamic", **how)
    for name in ZOO:
        chosen = {"weights": "random", **how}
        export(name, workspace=card.workspace, variants=("fp32", "fp16"), **chosen)
    print(f"exports: {time.monotonic() - began:.0f} s on the CPU")


def parity_part(card: Card) -> None:
    """How near the default model's variants are to torch."""
    precisions = ("f32",) if card.rehearsal else ("f32", "tf32", "f16")
    judge(card, MODEL, precisions, explain=False)


def zoo_part(card: Card) -> None:
    """The same of two other models, with what adds the error."""
    for name in ZOO:
        judge(card, name, ("f32",) if card.rehearsal else ("f32", "f16"), explain=True)


def judge(card: Card, model: str, precisions: Sequence[str], *, explain: bool) -> None:
    """Parity of fp32 and fp16 in some precisions, a line for each cell and each finding."""
    from edgepipe.pipeline import parity

    result = parity(
        workspace=card.workspace, model=model, runners=(card.runner,), explain=explain,
        variants=("fp32", "fp16"), precisions=tuple(precisions),
    )  # fmt: skip
    for row in result.cells:
        where = f"{model} {row.variant} {row.precision} ({row.precision_from})"
        decibels = None if row.sqnr_db is None else round(row.sqnr_db, 1)
        said = f"{row.verdict}, {decibels} dB, {dict(row.placement)} {row.reason or ''}"
        print(f"parity {where}: {said}")
    for one in result.explanations:
        named = "; ".join(found.text for found in one.findings) or "nothing found"
        print(f"explain {model} {one.variant} {one.runner}: {named}")


def latency_part(card: Card) -> None:
    """p50 of one image, each way to run a session beside the bare loop that runs it so."""
    for variant, precision, ways in PRECISIONS:
        asked = card.precision(precision)
        model, pixels = card.folder / f"{variant}.onnx", image(card.folder)
        beside = loops(card, model, pixels, asked, ways=(*ways, RESIDENT))
        for way in ways:
            own, there = ours(card, variant, card.runner, asked, card.options(WAYS[way]))
            told, name = beside.get(way), f"p50 {variant} {precision} {way}"
            print(f"{name}: edgepipe {own}, on the device {there}, bare {told}", flush=True)
            if isinstance(own, float) and told and way in ("plain", "bound", "graph"):
                judged(name, own / told, NEAR)
            if isinstance(own, float) and way == "plain":
                card.default_ms[f"{variant} {precision}"] = own
        print(f"p50 {variant} {precision} {RESIDENT}: bare {beside.get(RESIDENT)}", flush=True)
        if "graph" in beside:
            card.best_ms[f"{variant} {precision}"] = beside["graph"]


def peers_part(card: Card) -> None:
    """The peer, torch, on the same card; the default beside the best bare graph of the two."""
    device = "cpu" if card.rehearsal else "cuda"
    for precision in ("f32", "tf32"):
        beside = loops(card, card.folder / "fp32.pt2", image(card.folder), precision, device)
        for way, told in beside.items():
            options = card.options({"cuda_graph": True} if way == "graph" else {})
            own, there = ours(card, "fp32", "torch", card.precision(precision), options, device)
            name = f"p50 torch {precision} {way}"
            print(f"{name}: edgepipe {own}, on the device {there}, bare {told}", flush=True)
        graphs = [beside.get("graph"), card.best_ms.get(f"fp32 {precision}")]
        known = [one for one in graphs if one]
        default = card.default_ms.get(f"fp32 {precision}")
        if known and default:
            judged(
                f"default p50 fp32 {precision} / best bare graph",
                default / min(known),
                DEFAULT_LIMIT,
            )


def offline_part(card: Card) -> None:
    """The most images per second that tune finds, beside a bare loop at batch 128."""
    from edgepipe.pipeline import tune

    folder = card.workspace / DYNAMIC / MODEL
    batch = 4 if card.rehearsal else LARGE
    for variant, precision in (("fp32", "tf32"),):
        asked = card.precision(precision)
        pixels = np.repeat(image(folder), batch, axis=0)
        beside = loops(card, folder / f"{variant}.onnx", pixels, asked, ways=("plain", "graph"))
        for way, told in beside.items():
            print(f"offline {variant} {precision} bare {way}: {1000 * batch / told:.0f} images/s")
        budget = 8.0 if card.rehearsal else OFFLINE_BUDGET
        found = tune(
            workspace=folder.parent, model=MODEL, runners=(card.runner,), variants=(variant,),
            precisions=(asked,), scenario="offline", budget=budget,
        )  # fmt: skip
        for row in found.cells:
            chosen = dict(row.settings)
            print(
                f"offline {variant} {precision}: {row.verdict or row.status}: {row.reason} {chosen}"
            )
            ms = row.tuned_ms or row.default_ms
            if ms and beside:
                most = max(1000 * batch / told for told in beside.values())
                what = f"offline {variant} {precision} ({1000 / ms:.0f} images/s) / bare"
                judged(what, 1000 / ms / most, OFFLINE_SHARE, least=True)
        sys.stdout.flush()


def tensorrt_part(card: Card) -> None:
    """ort-tensorrt in f32 and f16, of the fp16 file and of int8: placement, building, p50."""
    from edgepipe.pipeline import bench, parity

    runner = card.runner if card.rehearsal else "ort-tensorrt"
    for variant, precision in TENSORRT:
        chosen: dict[str, Any] = {
            "workspace": card.workspace, "model": MODEL, "runners": (runner,),
            "variants": (variant,), "precisions": (card.precision(precision),),
        }  # fmt: skip
        name = f"tensorrt {variant} {precision}"
        (judgement,) = parity(**chosen).cells
        said = f"{judgement.sqnr_db} dB, {dict(judgement.placement)} {judgement.reason or ''}"
        print(f"{name}: {judgement.verdict or judgement.status} {said}", flush=True)
        if judgement.status != "ok":
            continue
        (row,) = bench(**chosen, quick=True).cells
        p50 = row.latency_ms and round(row.latency_ms.p50, 4)
        took = f"built in {row.build_ms} ms, loaded in {row.load_ms} ms"
        print(f"{name}: p50 {p50} ms, on the device {row.on_device_ms}, {took}", flush=True)


def int8_part(card: Card) -> None:
    """Whether int8 gains anything on ort-cuda: against fp32, nodes on the CPU allowed."""
    own, _ = ours(card, "int8", card.runner, "f32", {}, allow_fallback=True)
    default = card.default_ms.get("fp32 f32")
    print(f"p50 int8: edgepipe {own}, fp32 {default}")
    if isinstance(own, float) and default:
        gains = "gains" if own < default else "gains nothing"
        print(f"int8 takes {own / default:.2f} of fp32's time: it {gains}", flush=True)


PARTS: Mapping[str, Callable[[Card], None]] = {
    "parity": parity_part,
    "latency": latency_part,
    "peers": peers_part,
    "int8": int8_part,
    "offline": offline_part,
    "tensorrt": tensorrt_part,
    "zoo": zoo_part,
}


def ours(
    card: Card,
    variant: str,
    runner: str,
    precision: str,
    options: Mapping[str, Any],
    device: str = "",
    *,
    allow_fallback: bool = False,
) -> tuple[float | str, float | None]:
    """p50 in ms of one image in edgepipe's worker, and on the device; or why there is none."""
    from edgepipe.pipeline.cells.session import Cell, open_cell
    from edgepipe.runners import registry
    from edgepipe.runners.base import RunnerError
    from edgepipe.runners.targets import LOCAL
    from edgepipe.runners.timing.plan import Plan

    file = f"{variant}.{'pt2' if runner == 'torch' else 'onnx'}"
    cell = Cell(variant, runner, LOCAL, precision, file, None, card.python)
    where = (device if device != "cpu" else "CPU") or registry.device(runner)
    if runner == "torch":
        cell = replace(cell, python=None)
    cell = replace(
        cell, device=where, options=tuple(options.items()), allow_fallback=allow_fallback
    )
    plan = Plan(SECONDS, 64, 10.0, 0.05, 1.0)
    try:
        with open_cell(cell, card.folder / cell.file) as opened:
            name = opened.loaded.inputs[0].name
            measured, _ = opened.worker.measure({name: image(card.folder)}, plan)
    except RunnerError as error:
        return str(error), None
    there = measured.on_device_ms
    return round(float(np.median(measured.samples)) / 1e6, 4), there and round(there, 4)


def loops(
    card: Card,
    model: Path,
    pixels: np.ndarray,
    precision: str,
    device: str = "",
    ways: Sequence[str] = (),
) -> dict[str, float]:
    """p50 in ms of each bare loop, in a process of the runner's interpreter; none with a reason."""
    fed = card.workspace / "cuda-images.npy"
    np.save(fed, pixels)
    program = model.suffix == ".pt2"
    provider = device or ("CPUExecutionProvider" if card.rehearsal else "CUDAExecutionProvider")
    python = sys.executable if program else card.python or sys.executable
    command = [
        python,
        __file__,
        "--bare",
        str(model),
        str(fed),
        provider,
        precision,
        ",".join(ways),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"bare loops of {model.name}: not done within {TIME_LIMIT:.0f} s")
        return {}
    if done.returncode:
        print(f"bare loops of {model.name}: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    found = json.loads(done.stdout.splitlines()[-1])
    return {way: float(p50) for way, p50 in found.items()}


def image(folder: Path) -> np.ndarray:
    """The first golden as edgepipe feeds it, float32 [1, 3, H, W]."""
    pixels = np.load(folder / "goldens.npz")["images"][:1].astype(np.float32) / np.float32(255)
    normalization = json.loads((folder / "manifest.json").read_text())["preprocessing"]
    mean, std = (np.float32(normalization[name]) for name in ("mean", "std"))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2))


# Bare loops, in a process that edgepipe has nothing to do with ------------------------------------


def bare_loops(model: str, fed: str, provider: str, precision: str, ways: str) -> int:
    """Print p50 in ms of each way as a line of JSON."""
    pixels = np.load(fed)
    if model.endswith(".pt2"):
        print(json.dumps(bare_torch(model, pixels, provider, precision)))
        return 0
    print(
        json.dumps({way: bare(model, pixels, provider, precision, way) for way in ways.split(",")})
    )
    return 0


def bare(model: str, pixels: np.ndarray, provider: str, precision: str, way: str) -> float:
    """p50 in ms of an onnxruntime session."""
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
    back = make([len(pixels), *output.shape[1:]], np.float32, device, 0)
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


def bare_torch(model: str, pixels: np.ndarray, device: str, precision: str) -> dict[str, float]:
    """p50 in ms of the exported program, eager and, on a GPU, as a CUDA graph."""
    import torch
    from torch.export.passes import move_to_device_pass

    backends: Any = torch.backends
    for place in (backends.cuda.matmul, backends.cudnn.conv):
        place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    module = move_to_device_pass(torch.export.load(model), device).module()
    host = torch.from_numpy(pixels)
    with torch.inference_mode():
        found = {
            "eager": p50_ms(
                lambda _: module(host.to(device)).cpu().numpy(), {"input": pixels}, SECONDS
            )
        }
        if device == "cpu":
            return found
        held = host.to(device)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                module(held)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = module(held)

        def replay(_: Any) -> Any:
            held.copy_(host)
            graph.replay()
            return result.cpu().numpy()

        found["graph"] = p50_ms(replay, {"input": pixels}, SECONDS)
    return found


if __name__ == "__main__":
    sys.exit(main())
