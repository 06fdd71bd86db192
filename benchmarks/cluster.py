"""How evaluate scales with a cluster's workers: images a second of local:N against local:1.

    python benchmarks/cluster.py --workers 2 --images 20000 --folder /tmp/cluster

Takes turns, several times each, and gives the median ratio with its range. Start and end of the
command are left out: a worker takes seconds to start whatever there is to do. Needs as many idle
cores as workers; the load before each turn is printed, since nothing else explains a bad ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from edgepipe.pipeline import evaluate, export

SIDE = 64


@dataclass
class Watch:
    """When how many images were done."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Dropped."""

    def step(self, done: int, total: int, text: str) -> None:
        """Note it, if it is about images."""
        if text.endswith("images"):
            self.seen.append((time.monotonic(), done))

    @property
    def rate(self) -> float:
        """Images a second between the first shard and the last."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began)


def prepare(folder: Path, count: int) -> None:
    """A small MobileNet V2 of random weights, and pictures of noise in ten folders."""
    export("mobilenet_v2", workspace=folder / "artifacts", weights="random", width=0.35,
           input_size=SIDE, variants=("fp32",))  # fmt: skip
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / "photos" / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        if not (path := place / f"{number:06}.png").exists():
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(path, compress_level=1)


def rate(folder: Path, workers: int) -> float:
    """Images a second of one run."""
    watch = Watch()
    evaluate(workspace=folder / "artifacts", data=folder / "photos", runners=("ort-cpu",),
             variants=("fp32",), cluster=f"local:{workers}", progress=watch)  # fmt: skip
    return watch.rate


def main() -> None:
    """Print a line for each turn, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args()
    prepare(asked.folder, asked.images)
    ratios = []
    for turn in range(asked.turns):
        load = os.getloadavg()[0]
        one, many = rate(asked.folder, 1), rate(asked.folder, asked.workers)
        ratios.append(many / one)
        print(f"turn {turn + 1}: {one:.0f} and {many:.0f} images/s, {many / one:.2f} x; "
              f"load before {load:.1f} on {os.cpu_count()} CPUs")  # fmt: skip
    print(f"local:{asked.workers} against local:1: {statistics.median(ratios):.2f} x "
          f"[{min(ratios):.2f}, {max(ratios):.2f}]")  # fmt: skip


if __name__ == "__main__":
    main()
