"""The profiling loop: warm up, then run a session that keeps the times of its nodes."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Mapping
from time import perf_counter_ns

import numpy as np

from ..base import NodeTimes, ProfiledSession
from .plan import Plan

# Of the runs that a session can keep, those that only warm it up: at most this share.
WARM_UP_SHARE = 0.25


def profile(
    session: ProfiledSession, feeds: Mapping[str, np.ndarray], plan: Plan
) -> tuple[np.ndarray, NodeTimes]:
    """Run ``session`` for as long as ``plan`` says, or as many times as it can keep.

    Returns the wall time of each run as int64 ns, and what its nodes take. Raises
    ``SessionError`` if a run fails.
    """
    most = session.most_runs
    enabled = gc.isenabled()
    gc.disable()
    try:
        warm_up = max(1, int(most * WARM_UP_SHARE)) if most else None
        warmed = _timed(session, feeds, plan.warm_up_seconds, 1, warm_up)
        session.begin()
        left = max(1, most - len(warmed)) if most else None
        samples = _timed(session, feeds, plan.seconds, plan.min_samples, left)
    finally:
        if enabled:
            gc.enable()
    return np.frombuffer(samples, np.int64), session.times()


def _timed(
    session: ProfiledSession,
    feeds: Mapping[str, np.ndarray],
    seconds: float,
    least: int,
    most: int | None,
) -> array[int]:
    """Runs until ``seconds`` are over and there are ``least`` of them, but ``most`` at most."""
    samples = array("q")
    enough = perf_counter_ns() + int(seconds * 1e9)
    while most is None or len(samples) < most:
        before = perf_counter_ns()
        session.run(feeds)
        after = perf_counter_ns()
        samples.append(after - before)
        if after >= enough and len(samples) >= least:
            break
    return samples
