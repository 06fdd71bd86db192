"""The measuring loop: how long it runs, what it calls settled, and wrong outputs it notices."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from edgepipe.runners.base import Placement, SessionError, TensorSpec
from edgepipe.runners.timing.measure import Measurement, measure
from edgepipe.runners.timing.plan import KEPT_OUTPUT_BYTES, Plan

Arrays = dict[str, np.ndarray]

FEEDS: Arrays = {"input": np.zeros((1, 3), np.float32)}
EXPECTED = np.array([1.0, -4.0, 2.0], np.float32)
PLAN = Plan(
    seconds=0.02, min_samples=64, max_seconds=10.0, window_seconds=0.001, warm_up_seconds=0.0
)
PATIENT = replace(PLAN, min_samples=8, warm_up_seconds=30.0)
FIRST_TIMED = 1  # the run after the untimed one, where there is no warming up


@dataclass
class FakeSession:
    """Gives ``answer(n)`` in its n-th run, counted from 0, after ``pace(n)`` seconds."""

    answer: Callable[[int], Arrays]
    pace: Callable[[int], float] = lambda _: 0.0
    runs: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    placement: Placement = field(default_factory=lambda: Placement("CPU", "f32", 1))

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        number, self.runs = self.runs, self.runs + 1
        time.sleep(self.pace(number))
        return self.answer(number)

    def close(self) -> None:
        """Nothing to free."""


def steady(_: int) -> Arrays:
    return {"logits": EXPECTED.copy()}


def changing(first: int, changed: Arrays) -> Callable[[int], Arrays]:
    """Right outputs until run number ``first``, other ones from then on."""
    return lambda number: changed if number >= first else steady(number)


def timed(answer: Callable[[int], Arrays], plan: Plan = PLAN) -> Measurement:
    """Measure a session that answers so."""
    return measure(FakeSession(answer), FEEDS, plan)


def test_samples_are_whole_nanoseconds_one_for_each_timed_run() -> None:
    session = FakeSession(steady)
    result = measure(session, FEEDS, replace(PLAN, warm_up_seconds=0.1))
    assert result.samples.dtype == np.int64
    assert result.samples.ndim == 1
    assert (result.samples >= 0).all()
    assert session.runs == 1 + result.warm_up_runs + len(result.samples)


def test_a_sample_covers_its_run() -> None:
    result = measure(FakeSession(steady, pace=lambda _: 0.002), FEEDS, PLAN)
    assert result.samples.min() >= 2_000_000


def test_every_run_gets_the_same_feeds() -> None:
    seen = []

    class Watching(FakeSession):
        def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
            seen.append(feeds["input"])
            return super().run(feeds)

    measure(Watching(steady), FEEDS, PLAN)
    assert all(array is FEEDS["input"] for array in seen)


def test_measures_for_the_seconds_asked_for() -> None:
    started = time.perf_counter()
    measure(FakeSession(steady), FEEDS, replace(PLAN, seconds=0.2, min_samples=1))
    assert time.perf_counter() - started >= 0.2


def test_a_slow_session_goes_on_until_there_are_enough_samples() -> None:
    plan = replace(PLAN, seconds=0.0, min_samples=20)
    result = measure(FakeSession(steady, pace=lambda _: 0.005), FEEDS, plan)
    assert len(result.samples) == 20


def test_max_seconds_ends_it_with_fewer_samples() -> None:
    plan = replace(PLAN, seconds=0.05, min_samples=1000, max_seconds=0.1)
    result = measure(FakeSession(steady, pace=lambda _: 0.02), FEEDS, plan)
    assert 1 <= len(result.samples) <= 5


def test_one_run_longer_than_max_seconds_is_still_a_sample() -> None:
    plan = replace(PLAN, min_samples=10, max_seconds=0.01)
    result = measure(FakeSession(steady, pace=lambda _: 0.05), FEEDS, plan)
    assert len(result.samples) == 1


def test_warm_up_settles_on_a_steady_session() -> None:
    result = measure(FakeSession(steady, pace=lambda _: 0.01), FEEDS, PATIENT)
    assert result.settled
    assert result.warm_up_runs >= 16  # two windows of at least 8


def test_warm_up_waits_until_the_session_is_no_longer_getting_faster() -> None:
    session = FakeSession(steady, pace=lambda number: max(0.01, 0.05 * 0.92**number))
    result = measure(session, FEEDS, PATIENT)
    assert result.settled
    assert result.warm_up_runs >= 24  # the first 20 get faster


def test_a_session_that_keeps_getting_slower_is_not_settled() -> None:
    session = FakeSession(steady, pace=lambda number: 0.0005 * 1.02**number)
    result = measure(session, FEEDS, replace(PLAN, warm_up_seconds=0.3, min_samples=1))
    assert not result.settled
    assert result.warm_up_runs >= 8


def test_no_time_to_warm_up_is_not_settled() -> None:
    result = measure(FakeSession(steady), FEEDS, replace(PLAN, warm_up_seconds=0.0))
    assert (result.settled, result.warm_up_runs) == (False, 0)


def test_warm_up_of_a_slow_session_ends_when_its_time_is_over() -> None:
    """Otherwise a cell that runs for seconds would miss the parent's deadline."""
    plan = replace(PLAN, warm_up_seconds=0.1, min_samples=1)
    result = measure(FakeSession(steady, pace=lambda _: 0.05), FEEDS, plan)
    assert not result.settled
    assert result.warm_up_runs <= 2


def test_equal_outputs_do_not_deviate() -> None:
    assert timed(steady).deviation == 0


def test_steal_is_a_percentage() -> None:
    assert 0 <= timed(steady).conditions.steal_percent <= 100


@pytest.mark.parametrize("first", [FIRST_TIMED, 2, 30, 60])
def test_outputs_that_change_while_timed_deviate_relative_to_the_largest(first: int) -> None:
    changed = {"logits": EXPECTED + np.array([0, 0, 1], np.float32)}
    assert timed(changing(first, changed)).deviation == pytest.approx(0.25)


def test_the_worst_output_of_the_worst_run_counts() -> None:
    def answer(number: int) -> Arrays:
        drift = np.float32(0.001 * min(number, 50))
        return {"logits": EXPECTED, "other": np.full((2, 2), 10 + drift, np.float32)}

    assert timed(answer).deviation == pytest.approx(0.005, rel=1e-3)


def test_an_output_of_zeros_deviates_in_absolute_terms() -> None:
    def answer(number: int) -> Arrays:
        return {"logits": np.full(3, 0.5 if number > 10 else 0.0, np.float32)}

    assert timed(answer).deviation == pytest.approx(0.5)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"logits": np.array([1, np.nan, 2], np.float32)}, id="NaN"),
        pytest.param({"logits": np.array([1, np.inf, 2], np.float32)}, id="infinite"),
        pytest.param({"logits": EXPECTED[:2]}, id="smaller"),
        pytest.param({"logits": EXPECTED[None]}, id="more dimensions"),
        pytest.param({"logits": np.zeros(0, np.float32)}, id="empty"),
        pytest.param({"scores": EXPECTED}, id="renamed"),
        pytest.param({}, id="missing"),
        pytest.param({"logits": EXPECTED, "extra": EXPECTED}, id="extra"),
    ],
)
def test_outputs_that_break_deviate_without_limit(changed: Arrays) -> None:
    assert timed(changing(30, changed)).deviation == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_were_never_finite_deviate_without_limit(value: float) -> None:
    broken = {"logits": np.array([1, value], np.float32)}
    assert timed(lambda _: broken).deviation == np.inf


@pytest.mark.parametrize(
    ("before", "after", "deviation"),
    [
        pytest.param(np.array([0, 200], np.uint8), np.array([0, 199], np.uint8), 1 / 200, id="u8"),
        pytest.param(np.array([0, -128], np.int8), np.array([0, 127], np.int8), 255 / 128, id="i8"),
        pytest.param(np.array([3, 1]), np.array([3, 4]), 1.0, id="class numbers"),
        pytest.param(np.array([True, False]), np.array([True, False]), 0.0, id="same flags"),
        pytest.param(np.array([True, False]), np.array([True, True]), 1.0, id="other flags"),
    ],
)
def test_whole_numbers_and_flags_deviate_by_their_difference(
    before: np.ndarray, after: np.ndarray, deviation: float
) -> None:
    result = timed(lambda number: {"output": before if number < 30 else after})
    assert result.deviation == pytest.approx(deviation)


@pytest.mark.parametrize("empty", [np.zeros(0, np.float32), np.zeros((0, 5), np.int64)])
def test_empty_outputs_do_not_deviate(empty: np.ndarray) -> None:
    assert timed(lambda _: {"boxes": empty}).deviation == 0


def large(value: float, share: float = 0.5) -> np.ndarray:
    """An output so large that few fit into what may be kept; its pages are never touched."""
    items = int(KEPT_OUTPUT_BYTES * share) // 4
    return np.broadcast_to(np.float32(value), (1, items))


@pytest.mark.parametrize("first", [FIRST_TIMED, 10, 39])
def test_large_outputs_that_stay_wrong_are_noticed_though_few_are_kept(first: int) -> None:
    plan = replace(PLAN, seconds=0.0, min_samples=40)
    result = timed(lambda number: {"logits": large(2.0 if number >= first else 1.0)}, plan)
    assert len(result.samples) == 40
    assert result.deviation == pytest.approx(1.0)


def test_kept_outputs_take_bounded_memory() -> None:
    share, alive, most = 0.125, 0, 0

    def freed() -> None:
        nonlocal alive
        alive -= 1

    def answer(_: int) -> Arrays:
        nonlocal alive, most
        array = large(1.0, share)
        weakref.finalize(array, freed)
        alive += 1
        most = max(most, alive)
        return {"logits": array}

    timed(answer, replace(PLAN, min_samples=300))
    assert most * share <= 1.5  # what may be kept, and the ones in use


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_timed_and_is_as_before_afterwards(enabled: bool) -> None:
    seen = []

    def answer(number: int) -> Arrays:
        seen.append(gc.isenabled())
        return steady(number)

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        timed(answer)
        assert gc.isenabled() == enabled
        assert not any(seen[FIRST_TIMED:])
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("fails_at", [0, 5, 40])
def test_a_failing_run_is_passed_on_and_the_collector_is_back(fails_at: int) -> None:
    def answer(number: int) -> Arrays:
        if number == fails_at:
            raise SessionError("out of memory")
        return steady(number)

    with pytest.raises(SessionError, match="out of memory"):
        timed(answer)
    assert gc.isenabled()
