"""Percentiles: what few samples can't carry isn't claimed."""

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


def test_spread_of_generations() -> None:
    assert intervals.spread([1.0, 1.2, 1.0]) == pytest.approx(0.2)


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert intervals.drift(np.repeat([1.0, 1.1, 1.5], 30)) == pytest.approx(0.5)
    assert intervals.drift(np.array([1.0, 2.0])) == 0
