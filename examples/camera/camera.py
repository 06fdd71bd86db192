"""A camera-like loop over frames: classify each, and show what the latencies were.

    python examples/camera/camera.py bundles/mobilenet_v2-….tar.gz --frames 500 --rate 30

The frames are made, not filmed (a digit that wanders over noise), 640×480, at a fixed rate; a
frame that comes while the one before is still being computed is dropped, as a camera would.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgepipe.runners import load_bundle

WIDTH, HEIGHT = 640, 480
PERCENTILES = (50, 90, 99)
# A percentile needs samples beyond it: so many for each (binomial bound, as MLPerf uses it).
NEEDED = {50: 1, 90: 64, 99: 662}


def frames(count: int) -> Iterator[np.ndarray]:
    """Yield uint8 ``[HEIGHT, WIDTH, 3]``: a bright square over noise, never twice the same."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 64, (HEIGHT, WIDTH, 3), np.uint8)
    for number in range(count):
        frame = np.roll(noise, number, axis=1).copy()
        x, y = 40 + 7 * number % (WIDTH - 160), 40 + 5 * number % (HEIGHT - 160)
        frame[y : y + 120, x : x + 24] = 255
        yield frame


def percentiles(milliseconds: list[float]) -> str:
    """Those that so many samples can carry."""
    if not milliseconds:
        return "no frame was in time"
    shown = [
        f"p{percent} {np.percentile(milliseconds, percent):.2f}"
        for percent in PERCENTILES
        if len(milliseconds) >= NEEDED[percent]
    ]
    return ", ".join(shown) + f" ms ({len(milliseconds)} frames)"


def main() -> None:
    """Load, loop, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rate", type=float, default=30.0, help="frames in a second")
    parser.add_argument("--runner")
    arguments = parser.parse_args()
    preprocess, infer, late = [], [], 0
    seen: Counter[str] = Counter()
    with load_bundle(arguments.bundle, runner=arguments.runner) as model:
        choice = model.choice
        print(f"{choice.variant} on {choice.runner}, {choice.settings.threads} threads")
        started = time.perf_counter()
        for number, frame in enumerate(frames(arguments.frames)):
            due = started + number / arguments.rate
            now = time.perf_counter()
            if now > due + 1 / arguments.rate:
                late += 1
                continue
            time.sleep(max(0.0, due - now))
            found = model.predict(frame)
            preprocess.append(found.preprocess_ms)
            infer.append(found.inference_ms)
            seen[found.label] += 1
    print(f"preprocessing: {percentiles(preprocess)}")
    print(f"inference:     {percentiles(infer)}")
    print(f"both:          {percentiles(list(np.add(preprocess, infer)))}")
    print(f"dropped: {late} of {arguments.frames} frames at {arguments.rate:g} a second")
    print("labels: " + ", ".join(f"{label} ×{count}" for label, count in seen.most_common(3)))


if __name__ == "__main__":
    main()
