"""How evaluate scales with a cluster's workers: images a second of local:N against local:1.

    python benchmarks/cluster.py --workers 2 --images 20000 --folder /tmp/cluster
    python benchmarks/cluster.py --size 224 --width 1 --images 2000 --folder /tmp/large

Takes turns, several times each, and gives the median ratio with its range. Beside it: N plain runs
at the same time against one alone, which is what the machine itself scales to: its files, pipes
and caches are shared. Start and end of the
command are left out: a worker takes seconds to start whatever there is to do. Needs as many idle
cores as workers; the load before each turn is printed, since nothing else explains a bad ratio.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edgepipe.pipeline import evaluate, export


@dataclass
class Watch:
    """When how many images were done."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Dropped."""

    def step(self, done: int, total: int, text: str) -> None:
        """Note it, if it is about images."""
        if done and total > 1:
            self.seen.append((time.monotonic(), done))

    @property
    def rate(self) -> float:
        """Images a second between the first shard and the last."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began)


def prepare(folder: Path, count: int, size: int, width: float) -> None:
    """A MobileNet V2 of random weights, and pictures of noise in ten folders."""
    export("mobilenet_v2", workspace=folder / "artifacts", weights="random", width=width,
           input_size=size, variants=("fp32",))  # fmt: skip
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / "photos" / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        if not (path := place / f"{number:06}.png").exists():
            pixels = random.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(path, compress_level=1)


def rate(workspace: Path, photos: Path, cluster: str | None) -> float:
    """Images a second of one run."""
    watch = Watch()
    evaluate(workspace=workspace, data=photos, runners=("ort-cpu",), variants=("fp32",),
             threads=1, decoders=1, cluster=cluster, progress=watch)  # fmt: skip
    return watch.rate


def apart(folder: Path, runs: int) -> float:
    """Images a second of so many plain runs at the same time, each with a workspace of its own."""
    started: list[subprocess.Popen[str]] = []
    for number in range(runs):
        own = folder / f"run{number}"
        shutil.copytree(folder / "artifacts", own, dirs_exist_ok=True)
        command = [sys.executable, __file__, "--folder", str(folder), "--plain", str(own)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    return sum(float(one.communicate()[0]) for one in started)


def main() -> None:
    """Print a line for each turn, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--plain", type=Path, help="print the rate of one run in this workspace")
    asked = parser.parse_args()
    folder, workers = asked.folder, asked.workers
    if asked.plain:
        print(rate(asked.plain, folder / "photos", None))
        return
    prepare(folder, asked.images, asked.size, asked.width)
    ratios, bounds = [], []
    for turn in range(asked.turns):
        load = os.getloadavg()[0]
        one, many = (
            rate(folder / "artifacts", folder / "photos", f"local:{n}") for n in (1, workers)
        )
        ratios.append(many / one)
        bounds.append(apart(folder, workers) / apart(folder, 1))
        print(f"turn {turn + 1}: {one:.0f} and {many:.0f} images/s, {many / one:.2f} x; "
              f"plain runs {bounds[-1]:.2f} x; load before {load:.1f} on {os.cpu_count()} CPUs",
              flush=True)  # fmt: skip
    for name, found in ((f"local:{workers} against local:1", ratios),
                        (f"{workers} plain runs against one", bounds)):  # fmt: skip
        print(f"{name}: {statistics.median(found):.2f} x [{min(found):.2f}, {max(found):.2f}]")


if __name__ == "__main__":
    main()
