"""Which nodes of a float32 graph can compute in float16.

A node computes in float16 if its operator takes it (ONNX's schemas), ONNX Runtime's CUDA provider
has a kernel for it, and everything that the node reads and gives fits. Inputs and outputs of the
graph, and all that is read inside branches and loops, keep their names and stay float32.

onnxruntime.transformers.float16 was tried (1.32): its nodes come in no topological order, so that
onnx.checker refuses the file; constants beyond float16 are cut off without a word, and those that
are nearly zero made larger; and float32 nodes get the rounded constants that they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...quantization.draft import DEFAULT_DOMAINS, opset
from ...quantization.units import read_by
from ...storage.onnx_models import inner_graphs
from .fitting import constant_misfit, values_misfit
from .writing import CAST, Ports, Writer, with_stored_constants

# Without a float16 kernel in ONNX Runtime's CUDA provider (its list of operator kernels), or that
# make tensors of a type which their attribute says.
FLOAT_ALONE = frozenset(
    {"GridSample", "RoiAlign", "Range", "EyeLike", "NonMaxSuppression", "CastLike"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)
CLIP = "Clip"
# They look at no values: either type will do.
SHAPES = ("Shape", "Size")
# The set since which Cast names its type by a number.
OLDEST_OPSET = 6


@dataclass(frozen=True)
class Kept:
    """A node that stays float32: ``node`` is its name, or that of what it gives."""

    node: str
    operator: str
    reason: str


class HalfGraph:
    """A model's graph, and what of it can be float16.

    ``peaks`` are the largest magnitudes that were seen of the tensors that nodes give. Raises
    ``ValueError`` for a model of which nothing can be float16.
    """

    def __init__(self, model: Any, peaks: Mapping[str, float]) -> None:
        from onnx import TensorProto, numpy_helper

        if opset(model) < OLDEST_OPSET:
            raise ValueError(f"operator set {opset(model)} is too old for float16")
        self._model = with_stored_constants(model)
        self._peaks = peaks
        self._graph = self._model.graph
        self._constants = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in self._graph.initializer
            if tensor.data_type == TensorProto.FLOAT
        }
        self.kept: list[Kept] = []
        self.total = 0
        self._halves: dict[int, Ports] = {}
        for position, node in enumerate(self._graph.node):
            ports = self._ports(node)
            if not ports.inputs and not ports.outputs:
                continue
            self.total += 1
            if reason := self._why_float(node, ports):
                self.kept.append(Kept(node.name or node.output[0], node.op_type, reason))
            else:
                self._halves[position] = ports
        if not self._halves:
            raise ValueError("none of its nodes can compute in float16")

    def written(self) -> Any:
        """The model with float16 inside."""
        return Writer(self._model, self._halves, self._read_as_float, self._constants).halved()

    def rounded(self) -> Any:
        """The model in float32 with every float16 tensor rounded: what exact sums would give.

        That is how GPUs compute, whose kernels add products of float16 in float32.
        """
        return Writer(self._model, self._halves, self._read_as_float, self._constants).rounded()

    @cached_property
    def _types(self) -> dict[str, int]:
        """Of every tensor whose type is known: ONNX's number for it."""
        from onnx import shape_inference

        graph = shape_inference.infer_shapes(self._model).graph
        found = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.HasField("tensor_type"):
                found.setdefault(value.name, value.type.tensor_type.elem_type)
        return found

    @cached_property
    def _read_as_float(self) -> frozenset[str]:
        """Tensors that are float32 for somebody: an output, an inner graph, a node that is."""
        names = {value.name for value in self._graph.output}
        for position, node in enumerate(self._graph.node):
            if node.op_type in SHAPES:
                continue
            if position not in self._halves:
                names.update(read_by(node))
                continue
            halves = self._halves[position].half_inputs
            names |= {name for place, name in enumerate(node.input) if place not in halves}
        return frozenset(names)

    def _ports(self, node: Any) -> Ports:
        read = () if node.op_type in SHAPES else node.input
        inputs, outputs = self._floats(read), self._floats(node.output)
        schema = _schema(node, self._model)
        if schema is None:
            return Ports(inputs, outputs, frozenset(), frozenset())
        return Ports(
            inputs,
            outputs,
            frozenset(place for place in inputs if _takes_half(schema.inputs, place)),
            frozenset(place for place in outputs if _takes_half(schema.outputs, place)),
        )

    def _floats(self, names: Iterable[str]) -> dict[int, str]:
        from onnx import TensorProto

        return {
            place: name
            for place, name in enumerate(names)
            if name and self._types.get(name) == TensorProto.FLOAT
        }

    def _why_float(self, node: Any, ports: Ports) -> str | None:
        if any(True for _ in inner_graphs(node)):
            return "has graphs inside"
        if _schema(node, self._model) is None:
            return "no operator of ONNX's own"
        if node.op_type in FLOAT_ALONE or not (ports.half_inputs or ports.half_outputs):
            return "no float16 kernel"
        if any(name and name not in self._types for name in (*node.input, *node.output)):
            return "types that aren't known"
        if node.op_type == CAST and (reason := self._why_no_cast(node)):
            return reason
        return next(self._misfits(node, ports), None)

    def _why_no_cast(self, node: Any) -> str | None:
        """Integers of more than 11 bits are none in float16, and whole numbers have to stay so."""
        from onnx import TensorProto

        small = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL}
        small |= {TensorProto.UINT8, TensorProto.INT8}
        into = next(one.i for one in node.attribute if one.name == "to")
        if into == TensorProto.FLOAT and self._types[node.input[0]] in small:
            return None
        return "changes types that float16 is too coarse for"

    def _misfits(self, node: Any, ports: Ports) -> Iterator[str]:
        for place in sorted(ports.half_inputs):
            name = ports.inputs[place]
            bound = node.op_type == CLIP and place > 0
            if name not in self._constants:
                found = values_misfit(self._peaks.get(name, 0.0))
            else:
                found = constant_misfit(self._constants[name], bound=bound)
            if found:
                yield found
        for place in sorted(ports.half_outputs):
            if found := values_misfit(self._peaks.get(ports.outputs[place], 0.0)):
                yield found


def _schema(node: Any, model: Any) -> Any:
    """An operator as ONNX defines it in the model's set; ``None`` for one that isn't ONNX's."""
    from onnx import defs

    if node.domain not in DEFAULT_DOMAINS:
        return None
    try:
        return defs.get_schema(node.op_type, opset(model), "")
    except defs.SchemaError:
        return None


def _takes_half(formal: Any, place: int) -> bool:
    """Whether the tensor at a place of a node may be float16. The last place may be for many."""
    parameter = formal[min(place, len(formal) - 1)]
    return "tensor(float16)" in parameter.types
