"""Whether int8 kernels without VNNI can add up a model exactly: a bound, not a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from .draft import weighted
from .qdq import QdqGraph
from .scales import worst_pairs


def proof(model: Any) -> dict[str, int]:
    """The largest sum of two neighbouring weights of each quantized layer that adds in 16 bits.

    A layer where it is at most ``scales.MOST_OF_A_PAIR`` can't saturate whatever it is fed:
    activations are at most 255. Depthwise convolutions aren't in it, their kernels add in 32 bits.
    """
    graph = QdqGraph(model)
    found: dict[str, int] = {}
    for one in weighted(model, lambda node: _weights(graph, node)):
        if not one.depthwise:
            found[one.node.name] = int(worst_pairs(one.weights, one).max(initial=0))
    return found


def _weights(graph: QdqGraph, node: Any) -> np.ndarray | None:
    layer = graph.layers.get(node.name)
    return None if layer is None else graph.weights_of(layer)
