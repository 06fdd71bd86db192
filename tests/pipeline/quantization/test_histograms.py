"""What calibration keeps of a tensor, whatever the number, the order and the batches of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepipe.pipeline.quantization.histograms import (
    BINS,
    MOST_VALUES,
    Calibrated,
    Collector,
    Histogram,
)


def batches(scale: float = 1.0, count: int = 8) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    # Growing values, so that the bins have to widen on the way.
    return [
        (random.normal(size=(1, 500)) * scale * 2.0**number).astype(np.float32)
        for number in range(count)
    ]


def collected(parts: list[np.ndarray]) -> Histogram:
    collector = Collector(len(parts))
    for part in parts:
        collector.take({"x": part}, len(part))
    return collector.done().histograms["x"]


def test_counts_are_of_the_values_in_each_bin() -> None:
    parts = batches()
    found = collected(parts)
    values = np.concatenate(parts).reshape(-1).astype(np.float64)
    counts, _ = np.histogram(values, found.edges)
    assert np.array_equal(found.counts, counts)
    assert (found.low, found.high) == (values.min(), values.max())
    # No wider than needed: all values together use at least a quarter of the bins.
    assert np.ptp(np.flatnonzero(found.counts)) >= BINS // 4


def test_order_and_batches_change_nothing() -> None:
    parts = batches()
    once = collected(parts)
    for others in (parts[::-1], [np.concatenate(parts[:5]), np.concatenate(parts[5:])]):
        other = collected(others)
        assert np.array_equal(once.counts, other.counts)
        assert (once.exponent, once.low, once.high) == (other.exponent, other.low, other.high)


@pytest.mark.parametrize("scale", [1e-30, 1e30], ids=["tiny", "huge"])
def test_any_size_of_values_fits(scale: float) -> None:
    found = collected(batches(scale))
    assert found.counts.sum() == 4000
    assert found.edges[0] <= found.low <= found.high <= found.edges[-1]


def test_zeros_alone_fit() -> None:
    found = collected([np.zeros((1, 10), np.float32)])
    assert found.counts[BINS // 2] == 10


def test_of_a_large_tensor_a_part_is_counted_and_the_ends_are_those_of_all() -> None:
    values = np.random.default_rng(0).normal(size=(2, 10 * MOST_VALUES)).astype(np.float32)
    values[1, 3] = 77.0
    found = collected([values])
    assert MOST_VALUES <= found.counts.sum() <= 2 * MOST_VALUES
    assert found.high == 77.0


def test_a_file_gives_back_what_was_collected(tmp_path: Path) -> None:
    collector = Collector(8)
    for part in batches():
        collector.take({"b": part, "a": -part}, 1)
    made = collector.done()
    (tmp_path / "calibration.npz").write_bytes(made.to_bytes())
    read = Calibrated.load(tmp_path / "calibration.npz")
    assert read.images == 8
    assert set(read.earlier) == {"a", "b"}
    for name, found in made.histograms.items():
        assert np.array_equal(read.histograms[name].counts, found.counts)
        assert read.histograms[name].low == found.low
    assert read.earlier["a"].high < read.histograms["a"].high
    assert read.to_bytes() == made.to_bytes()


def test_a_file_is_as_large_for_many_images_as_for_few() -> None:
    sizes = []
    for count in (10, 1000):
        random = np.random.default_rng(0)
        collector = Collector(count)
        for _ in range(count):
            collector.take({"x": random.normal(size=(1, 50)).astype(np.float32)}, 1)
        done = collector.done()
        sizes.append(done.histograms["x"].counts.nbytes + done.earlier["x"].counts.nbytes)
    assert sizes[0] == sizes[1]


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="x is NaN or infinite"):
        Collector(1).take({"x": np.array([[1.0, np.nan]], np.float32)}, 1)
