"""Decoding beside a runner: neither starves the other, and memory does not grow with the images.

    python benchmarks/decoding.py [--workspace DIR] [--images 10000] [--rounds 9]

Takes a workspace with the default export in it, or makes one. The images are made up: 640 x 480
JPEGs, 200 different ones under many names. Three rates, in images a second, taken in turn in
every round: decoding alone, the runner alone (through its worker, tensors ready), and both in the
loop that evaluate has; each from the first chunk of images to the last. Memory is the sum of the
peaks of all of evaluate's processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

from edgepipe.pipeline import export
from edgepipe.pipeline.cells.session import Cell, OpenCell, open_cell, run_batches
from edgepipe.pipeline.storage import dataset
from edgepipe.pipeline.storage.dataset import Dataset
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners.images import Preprocessing, batches
from edgepipe.runners.targets import LOCAL

MODEL = "mobilenet_v2"
LABELS = tuple("0123456789")
DIFFERENT = 200
ROUND = 640
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


Run = Callable[[np.ndarray], object]


def chunks_a_second(chunks: Iterable[tuple[np.ndarray, object]], run: Run) -> float:
    """How many chunks a second come and are run, from the first one that is there to the last."""
    started = stopped = 0.0
    count = -1
    for tensor, _ in chunks:
        stopped = time.perf_counter()
        started = started or stopped
        count += 1
        run(tensor)
    return count / (stopped - started)


def rates(opened: OpenCell, images: Dataset, preprocessing: Preprocessing, decoders: int) -> Rates:
    """The three rates of one round, in images a second."""
    name = opened.loaded.inputs[0].name
    ready = np.random.default_rng(0).standard_normal((CHUNK, *preprocessing.shape), np.float32)

    def run(tensor: np.ndarray) -> None:
        feeds = (({name: part}, rows, valid) for part, rows, valid in batches(tensor, 1))
        run_batches(opened, feeds)

    def decoded() -> Iterable[tuple[np.ndarray, object]]:
        return images.tensors(preprocessing, CHUNK, decoders)

    again = ((ready, None) for _ in range(len(images) // CHUNK))
    return Rates(
        CHUNK * chunks_a_second(decoded(), lambda _: None),
        CHUNK * chunks_a_second(again, run),
        CHUNK * chunks_a_second(decoded(), run),
    )


class Rates(NamedTuple):
    """Images a second."""

    decoding: float
    runner: float
    both: float

    @property
    def ratio(self) -> float:
        """What is left of the slower one's own rate when both work."""
        return self.both / min(self.decoding, self.runner)


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
    parser.add_argument("--rounds", type=int, default=9)
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
        if options.only != "memory":
            images = dataset.class_folders(photos(root / "some", ROUND, different), LABELS)
            cell = Cell("fp32", "ort-cpu", LOCAL, "f32", "fp32.onnx", options.threads)
            found = []
            with open_cell(cell, workspace / MODEL / cell.file) as opened:
                for _ in range(options.rounds):
                    found.append(rates(opened, images, preprocessing, options.decoders))
                    one = found[-1]
                    print(
                        f"decoding {one.decoding:.0f}/s, runner {one.runner:.0f}/s, "
                        f"both {one.both:.0f}/s: {one.ratio:.2f} of the slower one",
                        flush=True,
                    )
            ratio = median(one.ratio for one in found)
            print(f"median {ratio:.2f}, at least {LIMIT_RATE} wanted")
            missed |= ratio < LIMIT_RATE
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
