"""Bias correction: what quantization moved a layer's mean by is taken off its bias.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling: "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721, section 4.2, the empirical form.
Layer by layer and in order: each one is held against the float model's means with all layers
before it corrected. Corrected together, several layers would each take off the same shift.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from ..draft import Data, Draft
from ..qdq import QdqGraph
from ..sessions import mean_of, session, with_means
from ..units import Unit, Visitor, Walk, walked

# See ``float_means``, by what they are of.
MOST_KEPT = 2
_MEANS: dict[bytes, Mapping[str, np.ndarray]] = {}


class BiasCorrection:
    """Moves the biases of all quantized layers, one after the other."""

    name = "bias-correction"

    def apply(self, draft: Draft, data: Data) -> Draft:
        """See ``Quantizer.apply``."""
        return walked(draft, data, (self,))[-1]

    def visitor(self, graph: QdqGraph, draft: Draft, data: Data) -> Visitor:
        """See ``LayerStep``."""
        biases, scaled = draft.biases(), _scaled(draft.model)
        corrected = {
            name: biases[name]
            for name, layer in graph.layers.items()
            if layer.bias and name in biases and name not in scaled
        }
        outputs = _outputs(draft.model, corrected)
        return _Correcting(graph, corrected, float_means(draft.model, outputs, data.samples))


class _Correcting:
    """``biases`` and ``wanted``, the float model's means, are those of the nodes to correct."""

    def __init__(
        self,
        graph: QdqGraph,
        biases: Mapping[str, np.ndarray],
        wanted: Mapping[str, np.ndarray],
    ) -> None:
        self._graph, self._biases, self._wanted = graph, biases, wanted
        self._moved: dict[str, np.ndarray] = {}

    def visit(self, walk: Walk, unit: Unit) -> None:
        """See ``Visitor``."""
        for node in unit.nodes:
            if node.name in self._biases:
                shift = walk.means(unit, node.output[0]) - self._wanted[node.name]
                moved = self._biases[node.name].astype(np.float64) - shift
                self._moved[node.name] = moved
                self._graph.set_bias(self._graph.layers[node.name], moved)

    def done(self, draft: Draft) -> Draft:
        """See ``Visitor``."""
        return draft.with_biases(self._moved)


def float_means(
    model: Any, outputs: Mapping[str, str], samples: Sequence[Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """The mean of each channel of some nodes' outputs in the float model, by node.

    Kept for the drafts of the same model that come next: all int8 variants have one.
    """
    key = hashlib.sha256(model.SerializeToString(deterministic=True))
    key.update(repr(sorted(outputs.items())).encode())
    for feeds in samples:
        for name, array in feeds.items():
            key.update(name.encode() + np.ascontiguousarray(array).data)
    if key.digest() not in _MEANS:
        while len(_MEANS) >= MOST_KEPT:
            _MEANS.pop(next(iter(_MEANS)))
        _MEANS[key.digest()] = _means(model, outputs, samples)
    return _MEANS[key.digest()]


def _means(
    model: Any, outputs: Mapping[str, str], samples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    if not outputs:  # products of matrices alone, which have no biases
        return {}
    made = session(with_means(model, list(outputs.values())))
    names = [f"mean/{tensor}" for tensor in outputs.values()]
    total = dict.fromkeys(outputs, np.zeros(1))
    for feeds in samples:
        for node, output in zip(outputs, made.run(names, dict(feeds)), strict=True):
            total[node] = total[node] + mean_of(output)
    return {node: value / len(samples) for node, value in total.items()}


def _outputs(model: Any, nodes: Container[str]) -> dict[str, str]:
    return {node.name: node.output[0] for node in model.graph.node if node.name in nodes}


def _scaled(model: Any) -> set[str]:
    """Gemm nodes that multiply their bias: its steps aren't those of the sums."""
    return {
        node.name
        for node in model.graph.node
        if any(one.name == "beta" and one.f != 1 for one in node.attribute)
    }
