"""The measuring loop: warm up, then time runs of one session, in slices, as a scenario says.

Three scenarios are MLPerf Inference's (inference_rules.adoc): one run after the other
("single-stream"), as many as the machine takes ("offline"), or runs that arrive at random
("server"). The fourth is a run now and then ("cold").
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np

from ..base import OutOfMemory, Session, SessionError
from .conditions import Conditions, Watch
from .plan import COLD, OFFLINE, SERVER, SINGLE_STREAM, Kept, Load, Plan
from .scenarios import Cold, Offline, Server, SingleStream, rest

WARM_UP_WINDOW_RUNS = 8
WARM_UP_AGREEMENT = 0.02


@dataclass(frozen=True)
class Measurement:
    """``samples`` are int64 nanoseconds, one for each timed run, in order of completion.

    ``slices`` is how many of them each slice took, one after the other.

    What they are depends on the scenario: how long the run took ("single-stream", "cold"), how long
    after the one before it the run was complete ("offline": they add up to the elapsed time),
    or how long after its arrival ("server": waiting for its turn included).

    ``deviation`` is the largest difference between any output of a timed run and the output
    of an untimed one on the same input, in units of that output's largest magnitude; it is
    infinite where a timed output has another shape, or is not finite. ``device_memory_mib`` is
    what the process then holds on a GPU, ``None`` where it holds none or nobody can say.
    ``on_device_ms`` is the median of runs whose inputs and outputs lie on the device, one after the
    other; ``None`` where the session has none (see ``Resident``), or no room for them.
    ``rests``: its threads stopped using the CPU soon after each slice.
    """

    samples: np.ndarray
    warm_up_runs: int
    settled: bool
    deviation: float
    conditions: Conditions = field(default_factory=lambda: Conditions(0.0))
    device_memory_mib: float | None = None
    on_device_ms: float | None = None
    slices: tuple[int, ...] = ()
    rests: bool = True

    def by_slice(self) -> list[np.ndarray]:
        """The samples of each slice."""
        return np.split(self.samples, np.cumsum(self.slices)[:-1])


class Timer:
    """Times ``session`` on ``feeds`` as ``plan`` says, in as many slices as it is asked for.

    Raises ``SessionError`` if a run fails, or if the scenario needs several runs at once and
    the session can't have them.
    """

    def __init__(self, session: Session, feeds: Mapping[str, np.ndarray], plan: Plan) -> None:
        self._plan = plan
        self._expected = session.run(feeds)
        self._kept = Kept(sum(array.nbytes for array in self._expected.values()))
        self._load = _load(session, feeds, plan)
        self._session, self._feeds = session, feeds
        self._watch = Watch()
        self._slices: list[np.ndarray] = []
        self._rests = True
        self._warm_up_runs, self._settled = 0, False
        # A collection in the middle of a sample would be timed as inference.
        self._collecting = gc.isenabled()
        gc.collect()
        gc.disable()

    def warm_up(self) -> None:
        """Run until the times agree, or the plan's patience ends."""
        self._warm_up_runs, self._settled = _warm_up(self._load, self._plan)

    def wake(self) -> None:
        """One run that doesn't count: what others did since the last slice is in the caches."""
        self._load.warm_up(0.0, 1, perf_counter_ns() + int(self._plan.max_seconds * 1e9))

    def slice(self) -> None:
        """Time runs."""
        self._watch.resume()
        samples = self._load.timed(self._plan, self._kept)
        self._watch.pause()
        self._slices.append(np.frombuffer(samples, np.int64))

    def rest(self) -> None:
        """Wait until the session's idle threads use the CPU no more, or patience ends."""
        self._rests = rest() and self._rests

    def finish(self) -> Measurement:
        """What all slices gave."""
        self._load.afterwards(self._kept)
        on_device = None
        if hasattr(self._session, "resident") and self._plan.scenario in (SINGLE_STREAM, OFFLINE):
            with suppress(OutOfMemory):  # its buffers come on top of the session's own
                on_device = on_device_ms(self._session, self._feeds, self._plan)
        return Measurement(
            samples=np.concatenate(self._slices),
            warm_up_runs=self._warm_up_runs,
            settled=self._settled,
            deviation=max(_deviation(outputs, self._expected) for outputs in self._kept.outputs),
            conditions=self._watch.read(),
            on_device_ms=on_device,
            slices=tuple(map(len, self._slices)),
            rests=self._rests,
        )

    def close(self) -> None:
        """Free what the load has beside the session."""
        if self._collecting:
            gc.enable()
        self._load.close()


def measure(session: Session, feeds: Mapping[str, np.ndarray], plan: Plan) -> Measurement:
    """One slice of a ``Timer``, after warming up."""
    timer = Timer(session, feeds, plan)
    try:
        timer.warm_up()
        timer.slice()
        return timer.finish()
    finally:
        timer.close()


def on_device_ms(session: Any, feeds: Mapping[str, np.ndarray], plan: Plan) -> float:
    """The median of a slice of ``Resident`` runs, in ms, after some that warm them up.

    It is not among the plan's slices: nothing is copied, so there is nothing to hold it against.
    Raises ``SessionError`` if a run fails.
    """
    run, clock = session.resident(feeds), perf_counter_ns
    for _ in range(WARM_UP_WINDOW_RUNS):
        run()
    started, samples = clock(), array("q")
    enough, limit = started + int(plan.seconds * 1e9), started + int(plan.max_seconds * 1e9)
    while (now := clock()) < limit and (now < enough or len(samples) < plan.min_samples):
        before = clock()
        run()
        samples.append(clock() - before)
    return float(np.median(samples)) / 1e6


def _load(session: Session, feeds: Mapping[str, np.ndarray], plan: Plan) -> Load:
    if plan.scenario in (SINGLE_STREAM, COLD):
        return (Cold if plan.scenario == COLD else SingleStream)(session, feeds)
    if not hasattr(session, "queue"):
        raise SessionError(f"{plan.scenario}: this runner has one run at a time only")
    return {OFFLINE: Offline, SERVER: Server}[plan.scenario](session, feeds)


def _warm_up(load: Load, plan: Plan) -> tuple[int, bool]:
    """Run until two successive windows agree. Returns (runs, whether they came to agree)."""
    limit, runs, previous = perf_counter_ns() + int(plan.warm_up_seconds * 1e9), 0, 0.0
    while perf_counter_ns() < limit:
        made, pace = load.warm_up(plan.window_seconds, WARM_UP_WINDOW_RUNS, limit)
        runs += made
        if made < WARM_UP_WINDOW_RUNS:
            break
        if previous and abs(pace - previous) <= WARM_UP_AGREEMENT * previous:
            return runs, True
        previous = pace
    return runs, False


def _deviation(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    if outputs.keys() != expected.keys():
        return np.inf
    worst = 0.0
    for name, given in outputs.items():
        reference = expected[name]
        if given.shape != reference.shape:
            return np.inf
        # In float64: flags have no difference, and small integers wrap around.
        found, reference = given.astype(np.float64), reference.astype(np.float64)
        scale = float(np.max(np.abs(reference), initial=0.0)) or 1.0
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = float(np.max(np.abs(found - reference), initial=0.0))
        worst = max(worst, difference / scale if np.isfinite(difference) else np.inf)
    return worst
