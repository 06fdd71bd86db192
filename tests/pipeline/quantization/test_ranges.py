"""Ranges of activations, against what trying every range gives."""

from __future__ import annotations

import numpy as np
import pytest

from edgepipe.pipeline.quantization import ranges
from edgepipe.pipeline.quantization.histograms import Calibrated, Collector, Histogram


def histogram(values: np.ndarray) -> Histogram:
    collector = Collector(1)
    collector.take({"x": values.astype(np.float32)[None]}, 1)
    return collector.done().histograms["x"]


def error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    return float(np.square(values - np.clip(np.rint(values / step) * step, low, high)).mean())


VALUES = {
    "normal": np.random.default_rng(0).normal(size=16000),
    "after ReLU": np.maximum(np.random.default_rng(1).normal(size=16000), 0),
    "long tail": np.random.default_rng(2).standard_t(3, size=16000),
    "one-sided long tail": np.random.default_rng(3).exponential(size=16000) ** 2,
}


@pytest.mark.parametrize("name", VALUES)
def test_least_squares_is_as_good_as_the_best_of_all_ranges(name: str) -> None:
    values = VALUES[name]
    low, high = ranges.least_squares(histogram(values))
    tried = [
        (a * min(values.min(), 0.0), b * values.max())
        for a in np.linspace(0.05, 1, 40)
        for b in np.linspace(0.05, 1, 40)
    ]
    best = min(error(values, *ends) for ends in tried if ends[1] > ends[0])
    assert error(values, low, high) <= 1.03 * best
    assert error(values, low, high) <= 1.01 * error(values, min(values.min(), 0), values.max())


@pytest.mark.parametrize("method", ranges.METHODS)
@pytest.mark.parametrize("name", VALUES)
def test_every_range_holds_zero_and_nothing_that_was_not_seen(name: str, method: str) -> None:
    values = VALUES[name]
    found = histogram(values)
    low, high = ranges.METHODS[method](found)
    assert found.low <= low <= 0 <= high <= found.high or low == 0 <= found.low
    assert low < high


@pytest.mark.parametrize("method", ranges.METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_has_a_range(method: str, value: float) -> None:
    low, high = ranges.METHODS[method](histogram(np.full(100, value)))
    assert (low <= min(value, 0) and max(value, 0) <= high) or value == 0 == low == high


def test_percentile_leaves_out_the_outermost() -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(0, 1, 16000), [1000.0]])
    found = histogram(values)
    assert ranges.percentile(found, 99.9)[1] < 1.5
    assert ranges.percentile(found, 100)[1] == 1000


def test_entropy_cuts_a_tail_and_keeps_what_is_even() -> None:
    assert (
        ranges.entropy(histogram(VALUES["one-sided long tail"]))[1]
        < 0.8 * VALUES["one-sided long tail"].max()
    )
    even = np.random.default_rng(0).uniform(0, 1, 16000)
    assert ranges.entropy(histogram(even))[1] > 0.95


def calibrated(values: np.ndarray) -> Calibrated:
    collector = Collector(len(values))
    for row in values.astype(np.float32):
        collector.take({"x": row[None]}, 1)
    return collector.done()


def test_a_range_that_still_grows_asks_for_more_images() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (40, 100))
    values[35, 0] = 1.2
    moved, enough = ranges.unsettled(calibrated(values), "min-max")
    assert moved["x"] == pytest.approx(1 / 6, rel=0.02)
    assert enough == pytest.approx(40 * moved["x"] / 0.01, abs=1)


def test_a_range_that_stays_asks_for_none() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (400, 100))
    assert ranges.unsettled(calibrated(values), "least-squares") == ({}, 400)
