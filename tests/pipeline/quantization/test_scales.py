"""int8 weights whose neighbours can't leave 16 bits, at no more cost than that needs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edgepipe.pipeline.quantization.draft import Weighted
from edgepipe.pipeline.quantization.scales import quantized, scales, worst_pairs

NODE = helper.make_node("Conv", ["x", "w", "b"], ["y"])


def weighted(weights: np.ndarray, axis: int = 0, groups: int = 1) -> Weighted:
    return Weighted(NODE, weights.astype(np.float32), axis, groups)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def saturates(weights: np.ndarray) -> bool:
    """Whether vpmaddubsw would, for any activations and wherever its pairs begin."""
    line = weights.reshape(len(weights), -1).astype(np.int64)
    for first, second in ((line[:, 0::2], line[:, 1::2]), (line[:, 1::2], line[:, 2::2])):
        length = min(first.shape[1], second.shape[1])
        a, b = first[:, :length], second[:, :length]
        highest = 255 * (np.maximum(a, 0) + np.maximum(b, 0))
        lowest = 255 * (np.minimum(a, 0) + np.minimum(b, 0))
        if (highest > 32767).any() or (lowest < -32768).any():
            return True
    return False


@pytest.mark.parametrize("shape", [(16, 64, 1, 1), (8, 12, 3, 3), (5, 7, 5, 5)])
def test_exact_pairs_cannot_saturate_and_plain_ones_can(shape: tuple[int, ...]) -> None:
    one = weighted(random(*shape))
    plain = quantized(one, scales(one))
    exact = quantized(one, scales(one, exact_pairs=True))
    for found, expected in ((plain, True), (exact, False)):
        assert saturates(found) == expected
        assert saturates(np.moveaxis(found, 1, -1)) == expected


def test_only_the_channels_that_could_saturate_have_larger_steps() -> None:
    values = random(4, 64, 1, 1) / 100
    values[:, 0] = 1.0  # the largest one, whose neighbours are small
    values[2, 1] = 0.9
    one = weighted(values)
    plain, exact = scales(one), scales(one, exact_pairs=True)
    assert list(np.flatnonzero(exact > 1.05 * plain)) == [2]
    # No larger than needed: the worst pair is at the limit, or was one step above it.
    assert worst_pairs(quantized(one, exact), one)[2] in (127, 128)
    # Seven bits for everything would double all of them.
    assert (scales(one, bits=7) > 1.9 * plain).all()


def test_depthwise_kernels_add_in_32_bits() -> None:
    one = weighted(np.ones((8, 1, 3, 3)), groups=8)
    assert np.array_equal(scales(one, exact_pairs=True), scales(one))


def test_a_channel_of_zeros_has_a_scale() -> None:
    values = random(3, 8, 1, 1)
    values[1] = 0
    one = weighted(values)
    assert (scales(one, exact_pairs=True) > 0).all()
    assert not quantized(one, scales(one))[1].any()


def test_a_gemm_has_its_channels_along_the_axis_it_says() -> None:
    values = random(64, 10)
    one = weighted(values, axis=1)
    exact = scales(one, exact_pairs=True)
    assert exact.shape == (10,)
    assert not saturates(quantized(one, exact).T)
