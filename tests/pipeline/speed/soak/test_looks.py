"""Looks at simulated soaks: leaks and throttling are found, and nothing else is called so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline.speed.soak.looks import LOOKS, Look, look

SLICES = 800
RUNS = 50 * np.arange(1, SLICES + 1)
Column = tuple[float | None, ...]


def columns(**given: Any) -> dict[str, Column]:
    """A soak of 40,000 runs in an hour on a machine that does nothing else."""
    usual: dict[str, Any] = {
        "after_s": 3600 * RUNS / RUNS[-1],
        "runs": RUNS,
        "p50_ms": np.full(SLICES, 5.0),
        "rss_mib": np.full(SLICES, 200.0),
        "threads": np.full(SLICES, 4),
        "descriptors": np.full(SLICES, 9),
        "clock_mhz": np.full(SLICES, 2400.0),
        "temperature_c": [None] * SLICES,
        "throttled": np.zeros(SLICES),
        "steal_percent": np.zeros(SLICES),
        "others_percent": np.zeros(SLICES),
    }
    every = {**usual, **given}
    return {name: tuple(np.asarray(values).tolist()) for name, values in every.items()}


def watched(found: Mapping[str, Column]) -> Look:
    """All looks, or those until a verdict that ends a soak, as soak makes them."""
    seen = None
    for share in LOOKS:
        part = {name: values[: int(share * SLICES)] for name, values in found.items()}
        seen = look(part, seen.found if seen else frozenset())
        if seen.verdict in ("leaks", "throttles"):
            break
    assert seen
    return seen


def healthy(kind: str, random: np.random.Generator) -> np.ndarray:
    """The resident set of a process that leaks nothing, MiB by slice."""
    share = RUNS / RUNS[-1]
    warming_up = 20 * (1 - np.exp(-share / 0.05))
    noise = random.normal(0, 0.05, SLICES)
    steps = (random.random(SLICES) < 5 / SLICES) * random.exponential(2, SLICES)
    more = {
        "level": 0 * share,
        "steps": np.cumsum(steps),
        "wandering": np.cumsum(random.normal(0, 0.1, SLICES)),
        "sawtooth": 3 * ((RUNS / 5000) % 1),
        "given back": np.cumsum(-1.0 * (random.random(SLICES) < 0.02)),
    }[kind]
    return 200 + warming_up + noise + more


KINDS = ("level", "steps", "wandering", "sawtooth", "given back")


@pytest.mark.parametrize("kind", KINDS)
def test_no_healthy_process_is_said_to_leak(kind: str) -> None:
    verdicts = []
    for seed in range(20):
        seen = watched(columns(rss_mib=healthy(kind, np.random.default_rng(seed))))
        verdicts.append(seen.verdict)
    assert "leaks" not in verdicts
    if kind == "level":
        assert set(verdicts) == {"steady"}


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_leak_of_a_mebibyte_in_a_thousand_runs_is_found(kind: str) -> None:
    for seed in range(10):
        rss = healthy(kind, np.random.default_rng(seed)) + RUNS / 1000
        seen = watched(columns(rss_mib=rss))
        row = seen.growth[0]
        assert (seen.verdict, row.quantity, row.verdict) == ("leaks", "rss", "leaks")
        assert row.interval
        assert 0 < row.interval[0] < row.interval[1]
        if kind == "level":
            assert row.per_1000_runs == pytest.approx(1, abs=0.3)


def test_what_settles_is_no_leak_and_not_steady_either_before_it_has() -> None:
    settling = 200 + 50 * (1 - np.exp(-np.arange(SLICES) / 80))
    assert watched(columns(rss_mib=settling)).verdict != "leaks"
    early = {name: values[:100] for name, values in columns(rss_mib=settling).items()}
    assert look(early).growth[0].reason == "it grew and is still settling"


@pytest.mark.parametrize("quantity", ["threads", "descriptors"])
def test_threads_and_descriptors_that_are_never_given_back_are_found(quantity: str) -> None:
    seen = watched(columns(**{quantity: 9 + RUNS // 1000}))
    (row,) = (one for one in seen.growth if one.verdict != "steady")
    assert (row.quantity, row.verdict) == (quantity, "leaks")
    assert row.per_1000_runs == pytest.approx(1, abs=0.05)
    assert watched(columns(**{quantity: 9 + (RUNS > 20_000)})).verdict == "steady"


def test_a_claim_counts_only_once_another_look_makes_it_again() -> None:
    leaking = columns(rss_mib=200 + RUNS / 1000)
    first = look(leaking)
    assert (first.verdict, first.found) == ("undecided", {"rss"})
    assert first.growth[0].reason == "it grows; another look has to find that again"
    assert look(leaking, first.found).verdict == "leaks"


def test_few_runs_that_show_nothing_prove_nothing() -> None:
    seen = watched(columns(runs=RUNS / 50))
    assert seen.verdict == "undecided"
    reason = "too few runs to call it steady: 800, about 3,333 would do"
    assert seen.growth[0].reason == reason


def test_throttling_is_a_time_that_goes_up_with_a_clock_that_goes_down() -> None:
    hot = RUNS > 24_000  # after 36 minutes of 60
    slower = {"p50_ms": np.where(hot, 7.5, 5.0)}
    seen = watched(columns(**slower, clock_mhz=np.where(hot, 1600.0, 2400.0)))
    assert seen.verdict == "throttles"
    assert seen.heat.after_s == pytest.approx(36 * 60, abs=180)
    assert seen.heat.ratio == pytest.approx(1.5)
    told = watched(columns(**slower, clock_mhz=[None] * SLICES, throttled=1.0 * hot))
    assert (told.verdict, told.heat.throttled) == ("throttles", int(hot.sum()))


@pytest.mark.parametrize(("clock", "said"), [(2400.0, "did not fall"), (None, "can't be read")])
def test_what_is_slower_for_no_reason_that_shows_is_undecided(
    clock: float | None, said: str
) -> None:
    slower = np.where(RUNS > 20_000, 7.5, 5.0)
    seen = watched(columns(p50_ms=slower, clock_mhz=[clock] * SLICES))
    assert seen.verdict == "undecided"
    assert said in (seen.heat.reason or "")


def test_a_slow_stretch_that_passes_is_no_throttling() -> None:
    slow = (RUNS > 10_000) & (RUNS < 20_000)
    seen = watched(columns(p50_ms=np.where(slow, 9.0, 5.0), clock_mhz=np.where(slow, 1e3, 2e3)))
    assert seen.verdict == "steady"


def test_what_cant_be_read_is_said_and_never_steady() -> None:
    seen = watched(columns(descriptors=[None] * SLICES))
    assert seen.verdict == "undecided"
    assert seen.growth[2].reason == "not readable there"
