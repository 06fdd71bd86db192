"""Decoding beside a runner: neither starves the other, and memory does not grow with the images.

    python benchmarks/decoding.py [--workspace DIR] [--images 10000] [--repeats 3]

Takes a workspace with the default export in it, or makes one. The images are made up: 640 x 480
JPEGs, 200 different ones under many names. Three rates, in images a second, taken in turn:
decoding alone, the runner alone (through its worker, images ready), and both as evaluate has
them, the time of 200 images subtracted so that what happens once does not count. Memory is the
sum of the peaks of evaluate's processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from edgepipe.pipeline import dataset, evaluate, export
from edgepipe.pipeline.cells import Cell, open_cell, run_batches
from edgepipe.pipeline.workspace import Workspace
from edgepipe.runners.images import Preprocessing, batches
from edgepipe.runners.launch import LOCAL

MODEL = "mobilenet_v2"
LABELS = tuple("0123456789")
DIFFERENT = 200
RATE_IMAGES = 1000
CHUNK = 32
LIMIT_RATE, LIMIT_MEMORY = 0.9, 1.1


def photos(folder: Path, count: int, different: Path) -> Path:
    """``count`` images in class folders, as links to the different ones."""
    for number in range(count):
        path = folder / LABELS[number % len(LABELS)] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(different / f"{number % DIFFERENT}.jpg", path)
    return folder


def make(folder: Path) -> Path:
    """Pictures with about as much detail as photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(DIFFERENT):
        coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8))
        grain = random.integers(-12, 13, (480, 640, 3))
        pixels = np.asarray(coarse.resize((640, 480)), int) + grain
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"{number}.jpg", quality=90
        )
    return folder


def decode_rate(data: Path, preprocessing: Preprocessing, decoders: int) -> float:
    """Images a second from files to tensors, nobody using them."""
    images = dataset.class_folders(data, LABELS)
    started = time.perf_counter()
    count = sum(len(part) for part, _ in images.tensors(preprocessing, CHUNK, decoders))
    return count / (time.perf_counter() - started)


def runner_rate(workspace: Path, preprocessing: Preprocessing, threads: int) -> float:
    """Images a second through the worker, the same chunk again and again."""
    cell = Cell("fp32", "ort-cpu", LOCAL, "f32", "fp32.onnx", threads)
    side = preprocessing.size
    tensor = np.random.default_rng(0).standard_normal((CHUNK, 3, side, side), np.float32)
    with open_cell(cell, workspace / MODEL / cell.file) as opened:
        name = opened.loaded.inputs[0].name

        def run() -> None:
            run_batches(opened, (({name: part}, *rest) for part, *rest in batches(tensor, 1)))

        run()
        started = time.perf_counter()
        for _ in range(RATE_IMAGES // CHUNK):
            run()
        return RATE_IMAGES // CHUNK * CHUNK / (time.perf_counter() - started)


def evaluate_seconds(workspace: Path, data: Path, threads: int, decoders: int) -> float:
    """How long evaluate takes for a folder, one cell."""
    started = time.perf_counter()
    evaluate(
        workspace=workspace,
        data=data,
        runners=("ort-cpu",),
        variants=("fp32",),
        threads=threads,
        decoders=decoders,
    )
    return time.perf_counter() - started


def peak_mib(workspace: Path, data: Path) -> float:
    """The peaks of evaluate and all the processes it starts, added up, in MiB."""
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", "evaluate", "--quiet"]
    command += ["--workspace", str(workspace), "--data", str(data)]
    command += ["--runner", "ort-cpu", "--variant", "fp32", "--threads", "1"]
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), high_water_kib(pid))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"evaluate ended with {process.returncode}")
    return sum(peaks.values()) / 1024


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def high_water_kib(pid: int) -> int:
    """The largest resident set that a process had, 0 for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0][1]) if lines else 0


def main() -> None:
    """Measure, print, and end with 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("rate", "memory"))
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        workspace = options.workspace or root / "artifacts"
        if options.workspace is None:
            export(MODEL, workspace=workspace, variants=("fp32",))
        manifest = Workspace(workspace, MODEL).verified()
        preprocessing = Preprocessing.from_json(manifest.preprocessing)
        different = make(root / "different")
        few = photos(root / "few", DIFFERENT, different)
        if options.only != "memory":
            some = photos(root / "some", DIFFERENT + RATE_IMAGES, different)
            ratios = []
            for _ in range(options.repeats):
                decode = decode_rate(some, preprocessing, options.decoders)
                runner = runner_rate(workspace, preprocessing, options.threads)
                short = evaluate_seconds(workspace, few, options.threads, options.decoders)
                long = evaluate_seconds(workspace, some, options.threads, options.decoders)
                both = RATE_IMAGES / (long - short)
                ratios.append(both / min(decode, runner))
                print(
                    f"decoding {decode:.0f}/s, runner {runner:.0f}/s, both {both:.0f}/s: "
                    f"{ratios[-1]:.2f} of the slower one",
                    flush=True,
                )
            print(f"median {median(ratios):.2f}, at least {LIMIT_RATE} wanted")
            missed |= median(ratios) < LIMIT_RATE
        if options.only != "rate":
            many = photos(root / "many", options.images, different)
            hundred = photos(root / "hundred", 100, different)
            small, large = peak_mib(workspace, hundred), peak_mib(workspace, many)
            print(
                f"100 images {small:.0f} MiB, {options.images} images {large:.0f} MiB: "
                f"{large / small:.3f}, at most {LIMIT_MEMORY} wanted"
            )
            missed |= large / small > LIMIT_MEMORY
    sys.exit(missed)


if __name__ == "__main__":
    main()
