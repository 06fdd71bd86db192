"""What the scenarios put on a session: runs in a row, now and then, as many as go, or arrivals."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from ..base import Session
from .conditions import largest_cache
from .plan import Kept, Plan

# Idle threads that wait in a loop take the time of whoever runs next.
REST_SECONDS, MOST_REST_SECONDS = 0.001, 0.2
TASKS = Path("/proc/self/task")


class SingleStream:
    """One run after the other; the next one starts when the last one is over."""

    def __init__(self, session: Session, feeds: Mapping[str, np.ndarray]) -> None:
        self._session, self._feeds = session, feeds

    def warm_up(self, seconds: float, runs: int, limit_ns: int) -> tuple[int, float]:
        """See ``Load.warm_up``; the pace is the median of the runs."""
        window = array("q")
        started = perf_counter_ns()
        while (
            len(window) < runs or perf_counter_ns() - started < seconds * 1e9
        ) and perf_counter_ns() < limit_ns:
            before = perf_counter_ns()
            self._session.run(self._feeds)
            window.append(perf_counter_ns() - before)
        return len(window), float(np.median(window)) if window else 0.0

    def before(self) -> None:
        """What comes between two runs and isn't timed."""

    def timed(self, plan: Plan, kept: Kept) -> array[int]:
        """See ``Load.timed``. Eight bytes a sample: what is kept here is in the peak RSS, too."""
        run, feeds, clock = self._session.run, self._feeds, perf_counter_ns
        samples = array("q")
        started = clock()
        enough, limit = started + int(plan.seconds * 1e9), started + int(plan.max_seconds * 1e9)
        while True:
            self.before()
            before = clock()
            outputs = run(feeds)
            after = clock()
            samples.append(after - before)
            kept.offer(outputs)
            if (after >= enough and len(samples) >= plan.min_samples) or after >= limit:
                kept.outputs.append(outputs)
                return samples

    def afterwards(self, kept: Kept) -> None:
        """The last timed outputs are kept already."""

    def close(self) -> None:
        """Nothing to free."""


class Cold(SingleStream):
    """A run now and then, as of a box that classifies a picture a minute.

    Before each of them the session's threads have gone to sleep, and other data is in the caches.
    """

    def __init__(self, session: Session, feeds: Mapping[str, np.ndarray]) -> None:
        super().__init__(session, feeds)
        self._other = np.zeros(2 * largest_cache(), np.uint8)

    def before(self) -> None:
        """Wait until the pool sleeps, and write twice as much as the caches hold."""
        rest()
        self._other += 1


def rest() -> bool:
    """Wait until no other thread of this process wants the CPU; whether they came to that."""
    limit = perf_counter_ns() + int(MOST_REST_SECONDS * 1e9)
    while perf_counter_ns() < limit:
        time.sleep(REST_SECONDS)
        if not _others_run():
            return True
    return False


def _others_run() -> bool:
    """By their state (proc_pid_stat(5)): on a busy machine one that spins needs not be running."""
    own = str(threading.get_native_id())
    for task in TASKS.glob("[0-9]*/stat"):
        try:
            state = task.read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended
            continue
        if state == "R" and task.parent.name != own:
            return True
    return False


class _Queued:
    """What both scenarios share: a queue, and its warming up with as many runs as it takes."""

    def __init__(self, session: Any, feeds: Mapping[str, np.ndarray]) -> None:
        self._session, self._feeds = session, feeds
        self._queue = session.queue()

    def warm_up(self, seconds: float, runs: int, limit_ns: int) -> tuple[int, float]:
        """See ``Load.warm_up``; the pace is the time for all runs, divided by their number."""
        started, made = perf_counter_ns(), 0
        while (
            made < runs or perf_counter_ns() - started < seconds * 1e9
        ) and perf_counter_ns() < limit_ns:
            self._queue.submit(self._feeds, _ignored)
            made += 1
        self._queue.wait()
        return made, (perf_counter_ns() - started) / max(1, made)

    def close(self) -> None:
        """End the queue's threads or requests."""
        self._queue.close()

    def afterwards(self, kept: Kept) -> None:
        """See ``Load.afterwards``."""
        kept.outputs.append(self._session.run(self._feeds))


class Offline(_Queued):
    """As many runs as the session takes: the next one starts when there is room for it."""

    def timed(self, plan: Plan, kept: Kept) -> array[int]:
        """See ``Load.timed``: the time between completions."""
        completed = array("q")
        lock = threading.Lock()  # completions may come on several threads

        def done(outputs: dict[str, np.ndarray]) -> None:
            with lock:
                completed.append(perf_counter_ns())
                kept.offer(outputs, copy=True)

        started = perf_counter_ns()
        enough, limit = started + int(plan.seconds * 1e9), started + int(plan.max_seconds * 1e9)
        submitted = 0
        while (now := perf_counter_ns()) < limit and (now < enough or submitted < plan.min_samples):
            self._queue.submit(self._feeds, done)
            submitted += 1
        self._queue.wait()
        ordered = np.sort(np.frombuffer(completed, np.int64))
        return array("q", np.diff(ordered, prepend=started).tobytes())


class Server(_Queued):
    """Runs that arrive as a Poisson process, whether there is room for them or not."""

    def timed(self, plan: Plan, kept: Kept) -> array[int]:
        """See ``Load.timed``: from a run's arrival to its completion.

        The time counts from when a run was to arrive, not from when this loop got round to it,
        so that a backlog shows in all the runs that wait in it (no "coordinated omission").
        """
        latencies = array("q")
        lock = threading.Lock()

        def submit(arrival: int) -> None:
            def done(outputs: dict[str, np.ndarray]) -> None:
                with lock:
                    latencies.append(perf_counter_ns() - arrival)
                    kept.offer(outputs, copy=True)

            self._queue.submit(self._feeds, done)

        random = np.random.default_rng(plan.seed)
        started = perf_counter_ns()
        enough, limit = started + int(plan.seconds * 1e9), started + int(plan.max_seconds * 1e9)
        arrival, submitted = started, 0
        while True:
            arrival += int(random.exponential(1e9 / plan.rate))
            if (arrival >= enough and submitted >= plan.min_samples) or arrival >= limit:
                break
            if perf_counter_ns() >= limit:  # the backlog has outlasted the measurement
                break
            time.sleep(max(0, arrival - perf_counter_ns()) / 1e9)
            submit(arrival)
            submitted += 1
        self._queue.wait()
        return latencies


def _ignored(_outputs: dict[str, np.ndarray]) -> None:
    """While warming up nobody looks."""
