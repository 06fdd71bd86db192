"""Which way weights are rounded: so that errors cancel on what a layer really sees.

Weight after weight is rounded, and what that adds to the layer's output is taken off by those that
are still to come: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", ICLR 2023, arXiv 2210.17323, in the form of
L. Babai, "On Lovász' lattice reduction and the nearest lattice point problem", Combinatorica 6,
1986, which needs no inverse. Where a channel has few weights each is then moved by whole steps as
long as the error falls. The means aren't looked at: the bias takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..draft import Data, Draft, Weighted
from ..qdq import QdqGraph
from ..scales import MOST_OF_A_PAIR, grown, worst_pairs
from ..units import Unit, Visitor, Walk, walked

# Places of a layer that its inputs' covariance is taken from, of all samples together: so many for
# each weight of a channel, within these limits.
PLACES_A_WEIGHT, FEWEST_PLACES, MOST_PLACES = 4, 1 << 10, 1 << 12
# Of the mean variance, added to each input's own: what so few places can't tell.
DAMPING = 0.01
SWEEPS = 3
# Weights of a channel that are also tried one by one: more would take minutes.
FEW = 64


class Rounding:
    """Rounds weights of quantized layers, each layer on what those before it give it.

    Of layers whose channels have few weights: with more of them errors average out, and their
    covariances take long.
    """

    name = "rounding"
    most = FEW

    def apply(self, draft: Draft, data: Data) -> Draft:
        """See ``Quantizer.apply``."""
        return walked(draft, data, (self,))[-1]

    def visitor(self, graph: QdqGraph, draft: Draft, data: Data) -> Visitor:
        """See ``LayerStep``."""
        return _Rounding(graph, draft, self.most)


class _Rounding:
    """Rounds the weights of layers whose channels have no more of them than ``most``."""

    def __init__(self, graph: QdqGraph, draft: Draft, most: int) -> None:
        self._graph, self._draft, self._most = graph, draft, most
        self._biases = draft.biases()
        self._weighted = {one.node.name: one for one in draft.weighted()}
        self._chosen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def visit(self, walk: Walk, unit: Unit) -> None:
        """See ``Visitor``."""
        graph = self._graph
        for node in unit.nodes:
            layer, one = graph.layers.get(node.name), self._weighted.get(node.name)
            if layer is None or one is None or not _takes(one, self._most):
                continue
            source = graph.dequantized_by(node.input[0])
            if source not in unit.reads:
                continue
            covariance = covariances(one, walk.values(source), graph.zero_point(layer))
            found = rounded(one, layer.weight_scale, covariance, self._draft)
            self._chosen[node.name] = found
            graph.set_weights(layer, *found)
            if node.name in self._biases:
                graph.set_bias(layer, self._biases[node.name])

    def done(self, draft: Draft) -> Draft:
        """See ``Visitor``."""
        return replace(draft, weights={**draft.weights, **self._chosen})


class RoundingAll(Rounding):
    """The same of all layers."""

    name = "rounding-all"
    most = 1 << 16


def _takes(one: Weighted, most: int) -> bool:
    """Whether a layer's channels have few enough weights, and are not of several groups."""
    return (one.depthwise or one.groups == 1) and one.by_channel.shape[1] <= most


def covariances(one: Weighted, inputs: Sequence[np.ndarray], zero: int) -> np.ndarray:
    """Of what is multiplied by the weights: float64 ``[K, K]``, of a depthwise one ``[C, K, K]``.

    ``inputs`` are a run's each, in the steps of their scale, with ``zero`` their zero point; K are
    the weights of an output channel.
    """
    count = one.by_channel.shape[1]
    places = np.clip(PLACES_A_WEIGHT * count, FEWEST_PLACES, MOST_PLACES)
    each = max(1, int(places) // len(inputs))
    patches = np.concatenate([_patches(one, array, each, zero) for array in inputs])
    patches = patches.astype(np.float32)
    patches -= patches.mean(0, dtype=np.float64).astype(np.float32)
    if one.depthwise:
        by_channel = np.ascontiguousarray(patches.transpose(1, 2, 0))
        found = by_channel @ by_channel.transpose(0, 2, 1)
    else:
        flat = patches.reshape(len(patches), -1)
        found = flat.T @ flat
    found = found.astype(np.float64) / len(patches)
    inputs_of_a_channel = found.shape[-1]
    trace = np.trace(found, axis1=-2, axis2=-1)[..., None, None] / inputs_of_a_channel
    return found + np.eye(inputs_of_a_channel) * np.maximum(DAMPING * trace, 1e-12)


def rounded(
    one: Weighted, scale: np.ndarray, covariance: np.ndarray, draft: Draft
) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights in their own shape and the scales they have.

    Those are larger than they were where pairs of weights would leave 16 bits otherwise.
    """
    limit = 2 ** (draft.bits.get(one.node.name, 8) - 1) - 1
    weights = one.by_channel.astype(np.float64)
    while True:
        steps = _steps(weights / scale[:, None].astype(np.float64), covariance, limit)
        found = np.moveaxis(
            steps.reshape(np.moveaxis(one.weights, one.axis, 0).shape), 0, one.axis
        ).astype(np.int8)
        worst = worst_pairs(found, one)
        exact = worst.max(initial=0) <= MOST_OF_A_PAIR
        if not draft.exact_pairs or one.depthwise or exact:
            return found, scale
        scale = grown(scale, worst)


def _steps(weights: np.ndarray, covariance: np.ndarray, limit: int) -> np.ndarray:
    """Whole steps for weights in steps, ``[channels, K]``."""
    steps = _nearest_plane(weights, covariance, limit)
    if weights.shape[1] > FEW:
        return steps
    nearest = np.clip(np.rint(weights), -limit, limit)
    best, plain = (_descended(weights, one, covariance, limit) for one in (steps, nearest))
    worse = _error(weights, best, covariance) > _error(weights, plain, covariance)
    return np.where(worse[:, None], plain, best)


def _nearest_plane(weights: np.ndarray, covariance: np.ndarray, limit: int) -> np.ndarray:
    """Rounded one after the other, each to make up for those before it."""
    # Upper triangular, and the covariance is its transpose times itself.
    factor = np.swapaxes(np.linalg.cholesky(covariance), -1, -2)
    factor = factor / np.diagonal(factor, axis1=-2, axis2=-1)[..., None]
    wanted = np.ascontiguousarray(weights.T)
    steps, off = np.empty_like(wanted), np.zeros_like(wanted)
    for place in reversed(range(len(wanted))):
        row = factor[..., place, place + 1 :]
        if covariance.ndim == 2:
            shift = row @ off[place + 1 :]
        else:
            shift = np.einsum("ck,kc->c", row, off[place + 1 :])
        steps[place] = np.clip(np.rint(wanted[place] + shift), -limit, limit)
        off[place] = wanted[place] - steps[place]
    return steps.T


def _descended(
    weights: np.ndarray, steps: np.ndarray, covariance: np.ndarray, limit: int
) -> np.ndarray:
    """The same with each weight moved by whole steps while that lowers the error."""
    steps = steps.copy()
    own = np.diagonal(covariance, axis1=-2, axis2=-1)
    for _ in range(SWEEPS):
        gradient = _times(steps - weights, covariance)
        moved = False
        for place in range(weights.shape[1]):
            move = -np.rint(gradient[:, place] / own[..., place])
            move = np.clip(steps[:, place] + move, -limit, limit) - steps[:, place]
            if move.any():
                moved = True
                steps[:, place] += move
                row = covariance[..., place, :]
                gradient += move[:, None] * (row[None, :] if covariance.ndim == 2 else row)
        if not moved:
            break
    return steps


def _times(errors: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    if covariance.ndim == 2:
        return errors @ covariance
    return np.einsum("ck,ckl->cl", errors, covariance)


def _error(weights: np.ndarray, steps: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    errors = steps - weights
    return (errors * _times(errors, covariance)).sum(1)


def _patches(one: Weighted, array: np.ndarray, most: int, around: int) -> np.ndarray:
    """What the weights are multiplied by at some places of a run, evenly spread.

    ``around`` is what stands beside the array where a layer pads it.
    ``[places, K]``; of a depthwise convolution ``[places, C, K]``.
    """
    if one.node.op_type == "Gemm":
        return array.reshape(len(array), -1)[: max(most, 1)]
    attributes = _attributes(one.node)
    taps = one.weights.shape[2:]
    strides = attributes.get("strides") or [1] * len(taps)
    dilations = attributes.get("dilations") or [1] * len(taps)
    edges = ((0, 0), (0, 0), *_padding(attributes, len(taps)))
    padded = np.pad(array, edges, constant_values=around)
    spans = [(tap - 1) * dilation + 1 for tap, dilation in zip(taps, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    batch, channels, high, wide = windows.shape[:4]
    every = max(1, batch * high * wide // most)
    place = np.arange(every // 2, batch * high * wide, every)
    image, rest = np.divmod(place, high * wide)
    found = windows[image, :, rest // wide, rest % wide].reshape(len(place), channels, -1)
    multiplied = one.weights.shape[0] // channels if one.depthwise else 1
    if multiplied > 1:
        found = np.repeat(found, multiplied, axis=1)
    return found if one.depthwise else found.reshape(len(place), -1)


def _padding(attributes: Mapping[str, Any], dimensions: int) -> list[tuple[int, int]]:
    pads = attributes.get("pads")
    if pads:
        half = len(pads) // 2
        return list(zip(pads[:half], pads[half:], strict=True))
    return [(0, 0)] * dimensions


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}
