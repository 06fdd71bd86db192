"""The scales of int8 weights, and what int8 kernels of CPUs without VNNI can add up exactly.

Such kernels (vpmaddubsw) multiply unsigned activations by signed weights and add two neighbouring
products in 16 bits, where they saturate. Neighbours lie next to each other in what is summed up:
along the input channels, or along a kernel's taps. Kernels of depthwise convolutions widen to
32 bits before they add.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .draft import Weighted

LARGEST_ACTIVATION = 255
BLOCK_VALUES = 1 << 20
# |255 (a + b)| has to stay within an int16.
MOST_OF_A_PAIR = np.iinfo(np.int16).max // LARGEST_ACTIVATION


def scales(one: Weighted, bits: int = 8, exact_pairs: bool = False) -> np.ndarray:
    """A scale for each output channel, float32: symmetric, the largest weight at the end.

    With ``exact_pairs`` a channel whose pairs could saturate has a larger one, by just as much as
    its worst pair needs.
    """
    largest = np.abs(one.by_channel).max(1, initial=0.0)
    found = (largest / (2 ** (bits - 1) - 1)).astype(np.float32)
    found[found < np.finfo(np.float32).tiny] = 1.0  # a channel of zeros
    if not exact_pairs or one.depthwise:
        return found
    over = np.arange(len(found))
    while len(over):
        part = one.channels(over)
        worst = worst_pairs(quantized(part, found[over]), part)
        found[over] = grown(found[over], worst)
        over = over[worst > MOST_OF_A_PAIR]
    return found


def grown(scale: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Larger scales for the channels whose worst pair is over the limit, by what it is over."""
    found, over = scale.copy(), worst > MOST_OF_A_PAIR
    # At least the next number: what rounding adds to a pair isn't in proportion.
    larger = scale[over] * (worst[over] / MOST_OF_A_PAIR)
    found[over] = np.nextafter(larger.astype(np.float32), np.float32(np.inf))
    return found


def quantized(one: Weighted, scale: np.ndarray) -> np.ndarray:
    """The weights as int8, in their own shape."""
    found = np.empty(one.weights.shape, np.int8)
    for some in _blocks(one):
        part = one.channels(some)
        steps = np.rint(part.weights / part.along(scale[some]))
        found[one.at(some)] = np.clip(steps, -127, 127)
    return found


def _blocks(one: Weighted) -> Iterator[slice]:
    """Channels that are computed at once: of large weights some megabytes, which caches hold."""
    channels = one.weights.shape[one.axis]
    step = max(1, BLOCK_VALUES * channels // max(1, one.weights.size))
    yield from (slice(start, start + step) for start in range(0, channels, step))


def worst_pairs(weights: np.ndarray, one: Weighted) -> np.ndarray:
    """The largest sum of two neighbouring int8 weights of one sign, for each output channel.

    How a kernel lays out what it sums up is its own matter: neighbours count in the order of the
    file and in that with the channels last, and wherever a pair may begin.
    """
    moved = np.moveaxis(weights, one.axis, 0)
    return np.concatenate([_worst(moved[some]) for some in _blocks(one)])


def _worst(channels: np.ndarray) -> np.ndarray:
    # Products of two int8 fit.
    moved = channels.astype(np.int16 if channels.dtype == np.int8 else np.int32)
    worst = np.abs(moved.reshape(len(moved), -1)).max(1, initial=0)
    for order in (moved, np.moveaxis(moved, 1, -1)) if moved.ndim > 2 else (moved,):
        line = order.reshape(len(moved), -1)
        pairs = line[:, :-1] + line[:, 1:]
        same_sign = line[:, :-1] * line[:, 1:] > 0
        worst = np.maximum(worst, np.where(same_sign, np.abs(pairs), 0).max(1, initial=0))
    return worst
