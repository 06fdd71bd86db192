"""A quantized file rewritten for x86 kernels, its answers kept.

What was int8 with a zero point becomes uint8 with another one: no answer moves by a bit. A pair of
QuantizeLinear and DequantizeLinear between operators that compute in float anyway goes: answers
move by what it rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..quantization.draft import copy_of
from ..quantization.qdq import DEQUANTIZE, QUANTIZE

# Where the zero points of what flows stand among an operator's inputs, and of what it gives.
ZERO_POINTS: Mapping[str, tuple[int, ...]] = {
    QUANTIZE: (2,),
    DEQUANTIZE: (2,),
    "QLinearConv": (2, 7),
    "QLinearMatMul": (2, 5, 7),
    "QGemm": (2, 8),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), (2, 5, 7)),
    **dict.fromkeys(
        (
            *("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearReduceMean"),
            *("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"),
        ),
        (2, 4),
    ),
}
CONCAT = "QLinearConcat"
# Which tensor each of these zero points belongs to: the input that stands two places before it.
OUTPUT_LAST = frozenset(ZERO_POINTS) - {DEQUANTIZE}
# Operators that only move quantized values about.
PASSING = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather"}
    | {"Identity", "Concat", "Split", "DepthToSpace", "SpaceToDepth", "Expand", "Pad"}
)
SHIFT = 128
# Where constant weights and their zero points stand.
WEIGHTS = {DEQUANTIZE: (0, 2), "QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "QGemm": (3, 5)}


class CanNotRepair(Exception):
    """Why a file stays as it is."""


@dataclass(frozen=True)
class Repaired:
    """``model`` with what was ``done``, a line each; ``exact`` if no answer changed by it."""

    model: Any
    done: tuple[str, ...]
    exact: bool


def unsigned(model: Any) -> Repaired:
    """int8 activations as uint8, and uint8 weights as int8: the same numbers, shifted by 128.

    Raises ``CanNotRepair`` for a graph in which int8 goes through an operator that isn't known.
    """
    model = copy_of(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done = []
    places = list(_flowing_zero_points(model, constants))
    signed = [place for place in places if _is(constants.get(place.name), np.int8)]
    if signed:
        _check_known(model)
        made: dict[str, str] = {}
        for place in signed:
            if place.name not in made:
                made[place.name] = _shifted_copy(model, constants[place.name], SHIFT, np.uint8)
            place.node.input[place.index] = made[place.name]
        tensors = sum(_gives_quantized(node) for node in model.graph.node)
        done.append(f"{tensors} activations are uint8 instead of int8")
    if weights := _shift_weights(model, constants):
        done.append(f"{weights} weights are int8 instead of uint8")
    if done:
        del model.graph.value_info[:]
    return Repaired(model, tuple(done), exact=True)


def without_pairs(model: Any, unfused: Collection[str]) -> Repaired:
    """Without the pairs whose DequantizeLinear a runtime left between operators in float."""
    model = copy_of(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    gone: dict[str, str] = {}
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.input else None
        pair = node.op_type == DEQUANTIZE and source is not None and source.op_type == QUANTIZE
        if pair and node.name in unfused and not outputs.intersection(node.output):
            gone[node.output[0]] = source.input[0]  # pyright: ignore[reportOptionalMemberAccess]
    if not gone:
        return Repaired(model, (), exact=True)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            while name in gone:
                name = gone[name]
            node.input[index] = name
    _drop_unused(model.graph)
    many = "pairs" if len(gone) > 1 else "pair"
    verb = "are" if len(gone) > 1 else "is"
    return Repaired(
        model, (f"{len(gone)} {many} between operators in float {verb} gone",), exact=False
    )


@dataclass(frozen=True)
class _Place:
    """Where a zero point is read: an operator's input."""

    node: Any
    index: int

    @property
    def name(self) -> str:
        return str(self.node.input[self.index])


def _flowing_zero_points(model: Any, constants: Mapping[str, Any]) -> Iterator[_Place]:
    """Those of tensors that aren't constants."""
    for node in model.graph.node:
        if node.op_type == CONCAT:
            yield _Place(node, 1)
            yield from (_Place(node, index) for index in range(4, len(node.input), 3))
            continue
        for index in ZERO_POINTS.get(node.op_type, ()):
            if index >= len(node.input):
                continue
            of_output = node.op_type in OUTPUT_LAST and index == ZERO_POINTS[node.op_type][-1]
            if of_output or node.input[index - 2] not in constants:
                yield _Place(node, index)


def _check_known(model: Any) -> None:
    """Raise ``CanNotRepair`` where int8 flows through what isn't in the tables above."""
    flows = {name for node in model.graph.node if _gives_quantized(node) for name in node.output}
    for node in model.graph.node:
        if flows.isdisjoint(node.input[:1]):
            continue
        if node.op_type in PASSING:
            flows.update(node.output)
        elif node.op_type not in ZERO_POINTS and node.op_type != CONCAT:
            raise CanNotRepair(f"int8 goes through {node.op_type}, which isn't known")
    for value in (*model.graph.input, *model.graph.output):
        if value.name in flows:
            raise CanNotRepair(f"{value.name} is quantized itself")


def _gives_quantized(node: Any) -> bool:
    return (node.op_type in ZERO_POINTS and node.op_type != DEQUANTIZE) or node.op_type == CONCAT


def _shift_weights(model: Any, constants: Mapping[str, Any]) -> int:
    """Make constant uint8 tensors with a zero point int8 ones; how many there were."""
    weights, zeros = set[str](), dict[str, str]()
    for node in model.graph.node:
        tensor, zero = WEIGHTS.get(node.op_type, (0, 0))
        if not zero or len(node.input) <= zero or node.input[zero] not in constants:
            continue
        name = node.input[tensor]
        if name not in weights and not _is(constants.get(name), np.uint8):
            continue
        if name not in weights:
            weights.add(name)
            _shift(constants[name], -SHIFT, np.int8)
        old = node.input[zero]
        if old not in zeros:
            zeros[old] = _shifted_copy(model, constants[old], -SHIFT, np.int8)
        node.input[zero] = zeros[old]
    return len(weights)


def _is(tensor: Any, dtype: type) -> bool:
    from onnx import numpy_helper

    return tensor is not None and numpy_helper.to_array(tensor).dtype == dtype


def _shift(tensor: Any, by: int, dtype: type) -> None:
    from onnx import numpy_helper

    values = (numpy_helper.to_array(tensor).astype(np.int16) + by).astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _shifted_copy(model: Any, tensor: Any, by: int, dtype: type) -> str:
    """A constant of its own, since weights may share the zero point: its name."""
    copy = model.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.name = f"{tensor.name}/{np.dtype(dtype).name}"
    _shift(copy, by, dtype)
    return str(copy.name)


def _drop_unused(graph: Any) -> None:
    """Nodes that nothing reads any more, from the end on, and their constants."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    del graph.value_info[:]
