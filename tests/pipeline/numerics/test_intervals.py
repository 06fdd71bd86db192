"""Percentiles and intervals: what few samples can't carry isn't claimed, what is claimed holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgepipe.pipeline.numerics import intervals


@pytest.mark.parametrize(("rank", "needed"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_percentile_needs_its_samples(rank: float, needed: int) -> None:
    samples = np.arange(needed, dtype=float)
    assert intervals.percentile(samples[1:], rank) is None
    # The nearest rank: the first sample that as many per cent of them don't exceed.
    shuffled = np.random.default_rng(0).permutation(samples)
    assert intervals.percentile(shuffled, rank) == math.ceil(rank * needed / 100) - 1


@pytest.mark.parametrize("rounds", [5, 10])
def test_the_interval_covers_the_true_value_in_about_95_of_100_runs(rounds: int) -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        low, high = intervals.interval(list(generator.normal(1, 0.05, rounds)))
        covered += low <= 1 <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_one_round_has_no_interval_and_equal_rounds_have_none_either() -> None:
    assert intervals.interval([2.5]) == (2.5, 2.5)
    assert intervals.interval([2.5] * 6) == (2.5, 2.5)


@pytest.mark.parametrize(("paired", "ratio"), [(True, 1.1), (False, 1.1), (True, 1.0)])
def test_the_interval_of_a_ratio_covers_it_in_about_95_of_100_runs(
    paired: bool, ratio: float
) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        # What slows the machine down slows both of a pair down.
        machine = generator.normal(1, 0.1, 8) if paired else np.ones(8)
        old, new = (machine * generator.normal(1, 0.02, 8) for _ in range(2))
        low, high = intervals.ratio_interval(list(ratio * new), list(old), paired=paired)
        covered += low <= ratio <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_pairs_cancel_what_slows_both_down() -> None:
    machine = [1.0, 2.0, 1.5, 1.2, 3.0]
    new = [1.05 * one for one in machine]
    low, high = intervals.ratio_interval(new, machine, paired=True)
    assert (low, high) == pytest.approx((1.05, 1.05))
    assert intervals.paired_ratio(new, machine) == pytest.approx(1.05)
    low, high = intervals.ratio_interval(new, machine, paired=False)
    assert low < 0.8
    assert high > 1.4


def test_spread_of_rounds() -> None:
    assert intervals.spread([1.0, 1.2, 1.0]) == pytest.approx(0.2)


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert intervals.drift(np.repeat([1.0, 1.1, 1.5], 30)) == pytest.approx(0.5)
    assert intervals.drift(np.array([1.0, 2.0])) == 0
