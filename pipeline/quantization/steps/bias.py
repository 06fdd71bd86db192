"""Bias correction: what quantization moved a layer's mean by is taken off its bias.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling: "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721, section 4.2, the empirical form.
Layer by layer and in order: each one is held against the float model's means with all layers
before it corrected. Corrected together, several layers would each take off the same shift.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from ..draft import Data, Draft, copy_of
from ..qdq import QdqGraph, write
from ..sessions import mean_of, session, with_means
from ..units import Walk


class BiasCorrection:
    """Moves the biases of all quantized layers, one after the other."""

    name = "bias-correction"

    def apply(self, draft: Draft, data: Data) -> Draft:
        """See ``Quantizer.apply``."""
        graph = QdqGraph(copy_of(write(draft)))
        biases = draft.biases()
        scaled = _scaled(draft.model)
        corrected = {
            name
            for name, layer in graph.layers.items()
            if layer.bias and name in biases and name not in scaled
        }
        wanted = float_means(draft.model, _outputs(draft.model, corrected), data.samples)
        walk = Walk(graph.model, data.samples)
        moved: dict[str, np.ndarray] = {}
        for unit in walk.units:
            for node in unit.nodes:
                if node.name in corrected:
                    shift = walk.means(unit, node.output[0]) - wanted[node.name]
                    moved[node.name] = biases[node.name].astype(np.float64) - shift
                    graph.set_bias(graph.layers[node.name], moved[node.name])
            walk.run(unit)
        return draft.with_biases(moved)


def float_means(
    model: Any, outputs: Mapping[str, str], samples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The mean of each channel of some nodes' outputs in the float model, by node."""
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
