"""What int8 costs layer by layer: the model in float with one layer's weights or values in int8.

Costs are told at the model's outputs: a layer may be far off by itself and matter to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..storage.onnx_models import copy_of
from .draft import BIAS, WEIGHT, Draft
from .qdq import DEQUANTIZE, OUTPUT_SUFFIX, QUANTIZE, QdqGraph

Judge = Callable[[Any], float | None]


def of_weights(model: Any, int8: Any, judge: Judge) -> dict[str, float | None]:
    """By node: dB at the outputs with this layer's weights and bias as the int8 file has them."""
    draft, graph = Draft(model), QdqGraph(int8)
    found: dict[str, float | None] = {}
    for one in draft.weighted():
        layer = graph.layers.get(one.node.name)
        if layer is None:
            continue
        scale = one.along(layer.weight_scale)
        changed = {one.node.input[WEIGHT]: graph.weights_of(layer) * scale}
        if layer.bias and len(one.node.input) > BIAS:
            bias = graph.constant(layer.bias) * graph.constant(layer.bias_scale_name)
            changed[one.node.input[BIAS]] = bias
        found[one.node.name] = judge(draft.with_constants(changed).model)
    return found


def of_values(model: Any, int8: Any, judge: Judge) -> dict[str, float | None]:
    """By tensor: dB at the outputs with this tensor rounded to its steps and cut to its range."""
    known = {name for node in model.graph.node for name in node.output}
    found: dict[str, float | None] = {}
    for tensor, pair in _pairs(int8).items():
        if tensor in known:
            found[tensor] = judge(_with_pair(model, int8, tensor, *pair))
    return found


def _pairs(int8: Any) -> Mapping[str, tuple[Any, Any]]:
    """The nodes that round each activation, by what the float model calls it."""
    constants = {tensor.name for tensor in int8.graph.initializer}
    behind = {node.input[0]: node for node in int8.graph.node if node.op_type == DEQUANTIZE}
    return {
        node.input[0].removesuffix(OUTPUT_SUFFIX): (node, behind[node.output[0]])
        for node in int8.graph.node
        if node.op_type == QUANTIZE and node.input[0] not in constants and node.output[0] in behind
    }


def _with_pair(model: Any, int8: Any, tensor: str, quantize: Any, dequantize: Any) -> Any:
    """The float model with the two nodes behind one of its tensors."""
    copy = copy_of(model)
    constants = {one.name: one for one in int8.graph.initializer}
    places = [place for place, node in enumerate(copy.graph.node) if tensor in node.output]
    between, behind = f"{tensor}/int8", f"{tensor}/rounded"
    for node in copy.graph.node:
        for place, name in enumerate(node.input):
            if name == tensor:
                node.input[place] = behind
    for value in copy.graph.output:
        if value.name == tensor:  # what is judged keeps its name, and is made under another
            copy.graph.node[places[0]].output[0] = f"{tensor}/exact"
    source = tensor if tensor in copy.graph.node[places[0]].output else f"{tensor}/exact"
    outputs = {value.name for value in copy.graph.output}
    made = []
    for node, read, give in (
        (quantize, source, between),
        (dequantize, between, tensor if tensor in outputs else behind),
    ):
        new = copy_of(node)
        new.name, new.input[0], new.output[0] = f"{give}/node", read, give
        made.append(new)
        for name in new.input[1:]:
            if name in constants and name not in {one.name for one in copy.graph.initializer}:
                copy.graph.initializer.append(constants[name])
    for place, node in enumerate(made):
        copy.graph.node.insert(places[0] + 1 + place, node)
    return copy
