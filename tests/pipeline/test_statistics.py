"""Percentiles and intervals: what few samples can't carry isn't claimed, what is claimed holds."""

from __future__ import annotations

import numpy as np
import pytest

from edgepipe.pipeline import statistics


@pytest.mark.parametrize(("rank", "needed"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_percentile_needs_its_samples(rank: float, needed: int) -> None:
    samples = np.arange(needed, dtype=float)
    assert statistics.percentile(samples[1:], rank) is None
    assert statistics.percentile(samples, rank) == pytest.approx(np.percentile(samples, rank))


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_the_interval_covers_the_true_median_in_about_95_of_100_runs(rounds: int) -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        # With one round only the spread inside it is seen, so there is no shift between rounds.
        shifts = generator.normal(0, 0.05 if rounds > 1 else 0, rounds)
        samples = [generator.normal(1 + shift, 0.1, 200) for shift in shifts]
        low, high = statistics.median_interval(samples)
        covered += low <= 1 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_the_interval_holds_the_median_of_all_samples() -> None:
    rounds = [np.full(10, 1.0), np.full(50, 2.0), np.full(10, 3.0)]
    low, high = statistics.median_interval(rounds)
    assert 0 <= low < 2 < high


def test_spread_of_rounds() -> None:
    rounds = [np.full(9, 1.0), np.full(9, 1.2), np.full(9, 1.0)]
    assert statistics.round_spread(rounds) == pytest.approx(0.2)


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert statistics.drift(np.repeat([1.0, 1.1, 1.5], 30)) == pytest.approx(0.5)
    assert statistics.drift(np.array([1.0, 2.0])) == 0
