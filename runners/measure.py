"""The measuring loop: warm up, then take the time around every ``session.run``."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from . import host
from .base import Session

WARM_UP_WINDOW_RUNS = 8
WARM_UP_AGREEMENT = 0.02
KEPT_OUTPUT_BYTES = 64 << 20


@dataclass(frozen=True)
class Plan:
    """How long to measure: at least ``seconds`` and ``min_samples``, but at most ``max_seconds``.

    Warming up ends when two successive windows (each at least 8 runs and ``window_seconds``)
    have medians within 2 % of each other, or after ``warm_up_seconds``.
    """

    seconds: float
    min_samples: int
    max_seconds: float
    window_seconds: float
    warm_up_seconds: float


@dataclass(frozen=True)
class Measurement:
    """``samples`` are int64 nanoseconds, one for each timed run, in order.

    ``deviation`` is the largest difference between any output of a timed run and the output
    of an untimed one on the same input, in units of that output's largest magnitude; it is
    infinite where a timed output has another shape, or is not finite. ``device_memory_mib`` is
    what the process then holds on a GPU, ``None`` where it holds none or nobody can say.
    """

    samples: np.ndarray
    warm_up_runs: int
    settled: bool
    steal_percent: float
    deviation: float
    device_memory_mib: float | None = None


def measure(session: Session, feeds: Mapping[str, np.ndarray], plan: Plan) -> Measurement:
    """Time ``session.run(feeds)`` as ``plan`` says."""
    expected = session.run(feeds)
    output_bytes = sum(array.nbytes for array in expected.values())
    most_kept = max(2, KEPT_OUTPUT_BYTES // max(1, output_bytes))
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a sample would be timed as inference
    try:
        warm_up_runs, settled = _warm_up(session, feeds, plan)
        stolen, all_ticks = host.cpu_ticks()
        samples, kept = _timed_loop(session, feeds, plan, most_kept)
        stolen_after, all_after = host.cpu_ticks()
    finally:
        if enabled:
            gc.enable()
    ticks = all_after - all_ticks
    return Measurement(
        samples=np.asarray(samples, np.int64),
        warm_up_runs=warm_up_runs,
        settled=settled,
        steal_percent=100 * (stolen_after - stolen) / ticks if ticks else 0.0,
        deviation=max(_deviation(outputs, expected) for outputs in kept),
    )


def _warm_up(session: Session, feeds: Mapping[str, np.ndarray], plan: Plan) -> tuple[int, bool]:
    """Run until two successive windows agree. Returns (runs, whether they came to agree)."""
    started, runs, previous = perf_counter_ns(), 0, 0.0
    while perf_counter_ns() - started < plan.warm_up_seconds * 1e9:
        window: list[int] = []
        window_started = perf_counter_ns()
        while (
            len(window) < WARM_UP_WINDOW_RUNS
            or perf_counter_ns() - window_started < plan.window_seconds * 1e9
        ) and perf_counter_ns() - started < plan.warm_up_seconds * 1e9:
            before = perf_counter_ns()
            session.run(feeds)
            window.append(perf_counter_ns() - before)
        runs += len(window)
        if len(window) < WARM_UP_WINDOW_RUNS:
            break
        median = float(np.median(window))
        if previous and abs(median - previous) <= WARM_UP_AGREEMENT * previous:
            return runs, True
        previous = median
    return runs, False


def _timed_loop(
    session: Session, feeds: Mapping[str, np.ndarray], plan: Plan, most_kept: int
) -> tuple[list[int], list[dict[str, np.ndarray]]]:
    """The loop itself. Outputs are only put aside here; they are judged after the clock."""
    run, clock = session.run, perf_counter_ns
    samples: list[int] = []
    kept: list[dict[str, np.ndarray]] = []
    stride = 1
    started = clock()
    enough, limit = started + int(plan.seconds * 1e9), started + int(plan.max_seconds * 1e9)
    while True:
        before = clock()
        outputs = run(feeds)
        after = clock()
        samples.append(after - before)
        if len(samples) % stride == 0:
            kept.append(outputs)
            if len(kept) >= most_kept:
                del kept[::2]
                stride *= 2
        if (after >= enough and len(samples) >= plan.min_samples) or after >= limit:
            kept.append(outputs)  # the last one always: what goes wrong mostly stays wrong
            return samples, kept


def _deviation(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    if outputs.keys() != expected.keys():
        return np.inf
    worst = 0.0
    for name, array in outputs.items():
        reference = expected[name]
        if array.shape != reference.shape:
            return np.inf
        # In float64: flags have no difference, and small integers wrap around.
        array, reference = array.astype(np.float64), reference.astype(np.float64)
        scale = float(np.max(np.abs(reference), initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = float(np.max(np.abs(array - reference), initial=0.0))
        worst = max(worst, difference / scale if np.isfinite(difference) else np.inf)
    return worst
