"""Several runs at once: that they are made, what is timed, and what goes wrong with them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from edgepipe.runners.backends.queues import ThreadQueue
from edgepipe.runners.base import Placement, SessionError, Settings, TensorSpec
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.timing import scenarios
from edgepipe.runners.timing.measure import measure
from edgepipe.runners.timing.plan import COLD, OFFLINE, SERVER, Plan
from edgepipe.runners.workers.launch import Worker

Arrays = dict[str, np.ndarray]
FEEDS: Arrays = {"input": np.zeros((1, 3), np.float32)}
RIGHT: Arrays = {"logits": np.array([1.0, -4.0], np.float32)}
WRONG: Arrays = {"logits": np.array([1.0, 4.0], np.float32)}
PLAN = Plan(
    seconds=0.2,
    min_samples=16,
    max_seconds=20.0,
    window_seconds=0.01,
    warm_up_seconds=0.1,
    scenario=OFFLINE,
)


@dataclass
class Sleeper:
    """A session whose runs sleep, several of them side by side."""

    seconds: float = 0.01
    places: int = 4
    answer: Callable[[int], Arrays] = lambda _: RIGHT
    runs: int = 0
    now: int = 0
    most: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    placement: Placement = field(default_factory=lambda: Placement("CPU", "f32", 1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        with self.lock:
            self.runs += 1
            self.now += 1
            self.most = max(self.most, self.now)
            number = self.runs
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        return self.answer(number)

    def queue(self) -> ThreadQueue:
        return ThreadQueue(self.run, self.places)

    def close(self) -> None:
        """Nothing to free."""


def test_offline_keeps_all_places_busy_and_its_samples_add_up_to_the_time_it_took() -> None:
    session = Sleeper()
    result = measure(session, FEEDS, PLAN)
    assert session.most == 4
    assert len(result.samples) >= 16
    elapsed = result.samples.sum() / 1e9
    assert 0.9 * result.conditions.seconds <= elapsed <= result.conditions.seconds
    # Four at once: more than twice what one after the other would give, however busy it is here.
    assert len(result.samples) / elapsed > 2 / session.seconds / 2


def test_server_latencies_count_from_the_arrival_so_that_a_backlog_shows() -> None:
    one_at_a_time = Sleeper(places=1)
    calm = replace(PLAN, scenario=SERVER, rate=20.0, seconds=1.0)
    flood = replace(calm, rate=1000.0, max_seconds=1.0)
    served = measure(one_at_a_time, FEEDS, calm)
    overrun = measure(one_at_a_time, FEEDS, flood)
    assert np.median(served.samples) >= 10e6
    assert len(overrun.samples) < 1000 * overrun.conditions.seconds / 2
    assert np.max(overrun.samples) > 5 * np.median(served.samples)


def test_arrivals_are_drawn_anew_with_another_seed_and_alike_with_the_same() -> None:
    counts = {
        seed: [
            len(measure(Sleeper(0.0005), FEEDS, replace(PLAN, scenario=SERVER, rate=100.0,
                        seed=seed, min_samples=1)).samples)
            for _ in range(2)
        ]
        for seed in range(4)
    }  # fmt: skip
    assert all(first == second for first, second in counts.values())
    assert len({first for first, _ in counts.values()}) > 1


@pytest.mark.parametrize("scenario", [OFFLINE, SERVER])
def test_wrong_outputs_under_load_are_noticed(scenario: str) -> None:
    session = Sleeper(0.001, answer=lambda number: WRONG if number > 60 else RIGHT)
    result = measure(session, FEEDS, replace(PLAN, scenario=scenario, rate=400.0))
    assert result.deviation == pytest.approx(2.0)


@pytest.mark.parametrize("scenario", [OFFLINE, SERVER])
def test_a_run_that_fails_under_load_fails_the_measurement(scenario: str) -> None:
    def answer(number: int) -> Arrays:
        if number > 40:
            raise SessionError("out of beads")
        return RIGHT

    with pytest.raises(SessionError, match="out of beads"):
        measure(Sleeper(0.001, answer=answer), FEEDS, replace(PLAN, scenario=scenario, rate=400.0))


def test_a_cold_run_waits_until_the_pool_sleeps_and_finds_other_data_in_the_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swept: list[int] = []
    awake: list[bool] = [False]
    early: list[bool] = []
    cache = 1 << 20
    monkeypatch.setattr(scenarios, "largest_cache", lambda: cache)
    before = scenarios.Cold.before

    def watched(cold: scenarios.Cold) -> None:
        before(cold)
        swept.append(cold._other.nbytes)

    monkeypatch.setattr(scenarios.Cold, "before", watched)

    class Spinner(Sleeper):
        def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
            if swept:  # not while it warms up
                early.append(awake[0])
            awake[0] = True
            threading.Thread(target=self.spin).start()
            return RIGHT

        @staticmethod
        def spin() -> None:
            """Without Python's lock, as a pool's threads do."""
            hashlib.pbkdf2_hmac("sha256", b"pool", b"thread", 30_000)
            awake[0] = False

    plan = replace(PLAN, scenario=COLD, seconds=0.1, min_samples=3, warm_up_seconds=0.0)
    found = measure(Spinner(), FEEDS, plan)
    assert len(found.samples) >= 3
    assert early
    assert not any(early)
    assert set(swept) == {2 * cache}


def test_a_session_without_a_queue_is_refused() -> None:
    class Single:
        inputs = outputs = ()
        placement = Placement("CPU", "f32", 1)

        def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
            return RIGHT

        def close(self) -> None:
            """Nothing to free."""

    with pytest.raises(SessionError, match="one run at a time"):
        measure(Single(), FEEDS, PLAN)


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
def test_the_real_runners_compute_side_by_side(runner: str, workspace: Path) -> None:
    model = (workspace / "mobilenet_v2" / "int8.onnx").read_bytes()
    feeds = {"input": np.zeros((1, 3, 224, 224), np.float32)}
    with Worker(LOCAL.argv()) as worker:
        loaded = worker.load(runner, {"int8.onnx": model}, Settings(2, streams=2))
        assert loaded.placement.streams == 2
        for scenario in (OFFLINE, SERVER):
            plan = replace(PLAN, scenario=scenario, rate=20.0)
            measured, _ = worker.measure(feeds, plan)
            assert len(measured.samples) >= 16
            assert measured.deviation < 1e-3


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
def test_a_load_from_the_cache_says_so_and_answers_the_same(runner: str, workspace: Path) -> None:
    files = {"int8.onnx": (workspace / "mobilenet_v2" / "int8.onnx").read_bytes()}
    feeds = {"input": np.full((1, 3, 224, 224), 0.5, np.float32)}
    with Worker(LOCAL.argv()) as worker:
        assert not worker.load(runner, files, Settings(1), {}).from_cache
        cache, first = worker.cache(), worker.run(feeds).arrays
    assert cache
    with Worker(LOCAL.argv()) as worker:
        assert worker.load(runner, files, Settings(1), cache).from_cache
        again = worker.run(feeds).arrays
    for name, array in first.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino", "torch"])
def test_an_unknown_option_is_refused_by_name(runner: str, workspace: Path) -> None:
    file = "fp32.pt2" if runner == "torch" else "int8.onnx"
    files = {file: (workspace / "mobilenet_v2" / file).read_bytes()}
    with Worker(LOCAL.argv()) as worker, pytest.raises(SessionError, match="no option 'spining'"):
        worker.load(runner, files, Settings(1, options={"spining": False}))


def test_every_tunable_value_is_taken_and_leaves_the_answers_alone(workspace: Path) -> None:
    files = {"fp32.onnx": (workspace / "mobilenet_v2" / "fp32.onnx").read_bytes()}
    feeds = {"input": np.full((1, 3, 224, 224), 0.5, np.float32)}
    for runner in ("ort-cpu", "openvino"):
        with Worker(LOCAL.argv()) as worker:
            tunables = worker.describe(runner).tunables
            worker.load(runner, files, Settings(1))
            expected = worker.run(feeds).arrays["logits"]
            assert tunables
            for name, values in tunables.items():
                for value in values:
                    worker.load(runner, files, Settings(1, options={name: value}))
                    got = worker.run(feeds).arrays["logits"]
                    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
