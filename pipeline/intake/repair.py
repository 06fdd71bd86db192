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

from ..quantization.qdq import DEQUANTIZE, QUANTIZE
from ..storage.onnx_models import copy_of, inner_graphs
from .onnx_file import graphs, nodes

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
# Operators that only move quantized values about, those of their first input; Concat all of them.
# Not Pad: what it adds would have to be shifted as well.
PASSING = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather"}
    | {"Identity", "Concat", "Split", "DepthToSpace", "SpaceToDepth", "Expand"}
)
SHIFT = 128
# The IR version from which on a constant needn't be an input as well.
FIRST_IR_OF_CONSTANTS = 4
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
    _lift_constants(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done = []
    places = list(_flowing_zero_points(model, constants))
    signed = [place for place in places if _is(constants.get(place.name), np.int8)]
    if signed:
        _check_known(model, signed)
        made: dict[str, str] = {}
        for place in signed:
            if place.name not in made:
                made[place.name] = _shifted_copy(model, constants[place.name], SHIFT, np.uint8)
            place.node.input[place.index] = made[place.name]
        tensors = sum(_output_place(node) is not None for node in model.graph.node)
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
            if index == _output_place(node) or node.input[index - 2] not in constants:
                yield _Place(node, index)


def _lift_constants(model: Any) -> None:
    """Tensors of ``Constant`` nodes become initializers, as those of most quantizers are."""
    if model.ir_version < FIRST_IR_OF_CONSTANTS:
        return
    kept = []
    for node in model.graph.node:
        value = next((one for one in node.attribute if one.name == "value"), None)
        if node.op_type != "Constant" or value is None:
            kept.append(node)
            continue
        value.t.name = node.output[0]
        model.graph.initializer.append(value.t)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _check_known(model: Any, signed: Collection[_Place]) -> None:
    """Raise ``CanNotRepair`` unless all that gives, moves and takes these int8 values is known."""
    of_node: dict[int, set[int]] = {}
    for place in signed:
        of_node.setdefault(id(place.node), set()).add(place.index)
    moved = set[str]()
    for node in model.graph.node:
        places = of_node.get(id(node), set())
        typed = any(one.name == "output_dtype" and one.i for one in node.attribute)
        if typed and _output_place(node) in places:
            raise CanNotRepair(f"{node.op_type} {node.name} says its type twice")
        reads = [index for index, name in enumerate(node.input) if name in moved]
        passes = node.op_type in PASSING and bool(reads)
        whole = range(len(node.input)) if node.op_type == "Concat" else (0,)
        if reads != list(whole) if passes else any(index + 2 not in places for index in reads):
            raise CanNotRepair(f"int8 goes through {node.op_type}, which isn't known")
        for index in places - {_output_place(node)}:
            if node.input[index - 2] not in moved:
                raise CanNotRepair(f"{node.input[index - 2]} is int8 before any QuantizeLinear")
        if passes or _output_place(node) in places:
            moved.update(node.output)
    outside = {value.name for value in model.graph.output}
    for inner in (one for node in model.graph.node for one in inner_graphs(node)):
        outside.update(name for node in nodes(inner) for name in node.input)
        outside.update(value.name for value in inner.output)
    if other := sorted(moved & outside):
        raise CanNotRepair(f"{other[0]} is int8 and goes out of the graph, or into an inner one")


def _output_place(node: Any) -> int | None:
    """Where the zero point of what a node gives stands."""
    if node.op_type == CONCAT:
        return 1
    return ZERO_POINTS[node.op_type][-1] if node.op_type in OUTPUT_LAST else None


def _shift_weights(model: Any, constants: Mapping[str, Any]) -> int:
    """Make constant uint8 tensors with a zero point int8 ones; how many there were.

    A tensor that is read anywhere without one stays.
    """
    readers: dict[str, list[Any]] = {}
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    for graph in graphs(model.graph):
        kept.update(value.name for value in graph.output)
        for node in graph.node:
            tensor, zero = WEIGHTS.get(node.op_type, (0, 0))
            whole = len(node.input) > zero > 0 and _is(constants.get(node.input[zero]), np.uint8)
            for index, name in enumerate(node.input):
                if whole and index == tensor and graph is model.graph:
                    readers.setdefault(name, []).append(node)
                else:
                    kept.add(name)
    zeros = dict[str, str]()
    weights = [name for name in readers if name not in kept and _is(constants.get(name), np.uint8)]
    for name in weights:
        _shift(constants[name], -SHIFT, np.int8)
        for node in readers[name]:
            index = WEIGHTS[node.op_type][1]
            old = node.input[index]
            if old not in zeros:
                zeros[old] = _shifted_copy(model, constants[old], -SHIFT, np.int8)
            node.input[index] = zeros[old]
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
