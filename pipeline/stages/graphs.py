"""ONNX graphs cut into layers: a copy that shows every layer, and one that runs each by itself.

A layer is a node with the activation that runners fuse into it and, in a quantized graph, the
QuantizeLinear and DequantizeLinear behind it. It goes by its float tensor, which has the same
name in the float graph and in the graph that ONNX Runtime's quantizer made of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runners.targets import LOCAL
from ..cells.arithmetic import EXECUTOR
from ..cells.session import Cell, open_cell
from ..quantization.qdq import DEQUANTIZE, OUTPUT_SUFFIX, QUANTIZE
from ..storage import onnx_models
from ..storage.onnx_models import copy_of

# Elementwise operators that runners fuse into the node before them.
ACTIVATIONS = frozenset(
    {"Clip", "Relu", "LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Gelu"}
)
FED, SHOWN = "fed/", "shown/"
# How ONNX Runtime's quantizer renames weights.
WEIGHT_SUFFIXES = ("_DequantizeLinear_Output", "_quantized", ".weight")


@dataclass(frozen=True)
class Layer:
    """``name`` is the module it came from where the graph tells, "features.1.conv.0.0".

    ``operators`` are its nodes' ("Conv+Clip"), ``tensor`` its output as the float graph calls
    it, ``reads`` the tensors of the layers before it. ``parts`` are the names of its nodes and of
    their outputs. ``macs`` are its multiply-accumulates, ``None`` where a shape is not known: of
    one image where the batch is dynamic, else of a run.
    """

    name: str
    operators: str
    tensor: str
    reads: frozenset[str]
    parts: frozenset[str] = frozenset()
    macs: int | None = None


@dataclass(frozen=True)
class _Pair:
    """The QuantizeLinear and DequantizeLinear that a layer's output goes through."""

    quantize: Any
    dequantize: Any


@dataclass(frozen=True)
class Watched:
    """A model whose graph outputs are layers: ``names`` maps a layer's tensor to its output.

    ``model`` is an ONNX ``ModelProto``, see ``onnx_models``.
    """

    model: Any
    names: Mapping[str, str]


class LayerGraph:
    """An ONNX model cut into ``layers``, in topological order."""

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = onnx.shape_inference.infer_shapes(onnx_models.load(path))
        graph = self._model.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {
            value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)
        }
        self._outputs = {value.name for value in graph.output}
        self._consumers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in set(node.input):
                self._consumers[name].append(node)
        self._raw: dict[str, str] = {}
        self._pairs: dict[str, _Pair] = {}
        self.layers = tuple(self._cut())

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return tuple(
            value.name for value in self._model.graph.input if value.name not in self._initializers
        )

    def shown(self, count: int | None = None) -> Watched:
        """The model with every layer's output, dequantized, among its own outputs.

        With ``count`` it ends behind that many layers: for a graph that does not run to its end.
        """
        model = copy_of(self._model)
        names: dict[str, str] = {}
        if count is not None:
            del model.graph.output[:]
        present = {value.name for value in model.graph.output}
        for layer in self.layers[:count]:
            raw, pair = self._raw[layer.tensor], self._pairs.get(layer.tensor)
            names[layer.tensor] = raw
            if self._is_half(raw):
                names[layer.tensor] = SHOWN + layer.tensor
                _add_cast(model, raw, SHOWN + layer.tensor, half=False)
            elif pair and pair.dequantize.output[0] in self._outputs:
                names[layer.tensor] = pair.dequantize.output[0]
            elif pair:
                # A copy, so that what is watched is no reason for a runner not to fuse.
                names[layer.tensor] = SHOWN + layer.tensor
                _add(model, pair.dequantize, pair.quantize.output[0], SHOWN + layer.tensor)
            if names[layer.tensor] not in present:
                model.graph.output.append(_float(names[layer.tensor]))
        if count is not None:
            _drop_unused(model.graph)
        return Watched(model, names)

    def apart(self, shapes: Mapping[str, Sequence[int]]) -> Watched:
        """The model cut at the layers' tensors in ``shapes``: each is computed from them as fed.

        Its inputs are the graph's own and "fed/TENSOR", float32 of that shape. So an error
        upstream of a layer does not reach it, and what it shows is what it adds itself.
        """
        model = copy_of(self._model)
        # What was inferred need not hold for tensors that come from elsewhere.
        del model.graph.value_info[:]
        cut = {
            self._raw[layer.tensor]: layer.tensor for layer in self.layers if layer.tensor in shapes
        }
        fed = {raw: FED + name + "/half" * self._is_half(raw) for raw, name in cut.items()}
        for node in model.graph.node:
            for position, name in enumerate(node.input):
                node.input[position] = fed.get(name, name)
        del model.graph.output[:]
        names: dict[str, str] = {}
        for raw, tensor in cut.items():
            pair = self._pairs.get(tensor)
            half = self._is_half(raw)
            names[tensor] = SHOWN + tensor if pair or half else raw
            if half:
                _add_cast(model, raw, SHOWN + tensor, half=False)
                # In front: whoever reads what is fed comes behind it.
                _add_cast(model, FED + tensor, fed[raw], half=True, first=True)
            elif pair:
                between = f"{SHOWN}{tensor}/quantized"
                _add(model, pair.quantize, raw, between)
                _add(model, pair.dequantize, between, SHOWN + tensor)
            model.graph.output.append(_float(names[tensor]))
        _drop_unused(model.graph)
        used = {name for node in model.graph.node for name in node.input}
        for tensor in cut.values():
            if FED + tensor in used:
                model.graph.input.append(_float(FED + tensor, shapes[tensor]))
        kept = [value for value in model.graph.input if value.name in used]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        return Watched(model, names)

    def range_of(self, tensor: str) -> tuple[float, float] | None:
        """The smallest and largest value that a layer's quantized output can take."""
        import numpy as np
        from onnx import numpy_helper

        pair = self._pairs.get(tensor)
        if pair is None:
            return None
        known = [name for name in pair.quantize.input[1:3] if name in self._initializers]
        if len(known) < 2:
            return None
        scale, zero_point = (numpy_helper.to_array(self._initializers[name]) for name in known)
        if scale.size != 1 or zero_point.dtype.kind not in "iu":
            return None
        limits = np.iinfo(zero_point.dtype)
        step, zero = float(scale.item()), int(zero_point.item())
        return (limits.min - zero) * step, (limits.max - zero) * step

    @property
    def names(self) -> dict[str, str]:
        """The layer's name of each node and tensor that is a part of one."""
        return {part: layer.name for layer in self.layers for part in layer.parts}

    def _cut(self) -> Iterable[Layer]:
        sources: dict[str, frozenset[str]] = {name: frozenset() for name in self.inputs}
        begun: dict[str, list[Any]] = {}
        for node in self._model.graph.node:
            dynamic = [name for name in node.input if name in sources]
            if not dynamic:
                continue
            reads = frozenset[str]().union(*(sources[name] for name in dynamic))
            chain = [*begun.pop(dynamic[0], []), node]
            for output in filter(None, node.output):
                if node.op_type in (QUANTIZE, DEQUANTIZE) or not self._is_float(output):
                    sources[output] = reads
                elif self._goes_into_activation(output):
                    sources[output], begun[output] = reads, chain
                else:
                    layer = self._layer(output, chain, reads)
                    sources[output] = frozenset({layer.tensor})
                    yield layer

    def _layer(self, output: str, chain: Sequence[Any], reads: frozenset[str]) -> Layer:
        tensor = output.removesuffix(OUTPUT_SUFFIX)
        self._raw[tensor] = output
        consumers = self._consumers[output]
        if len(consumers) == 1 and consumers[0].op_type == QUANTIZE:
            behind = self._consumers[consumers[0].output[0]]
            if behind and behind[0].op_type == DEQUANTIZE:
                self._pairs[tensor] = _Pair(consumers[0], behind[0])
        operators = "+".join(node.op_type for node in chain)
        parts = {tensor}.union(*({node.name, *node.output} for node in chain)) - {""}
        counts = [self._multiply_accumulates(node) for node in chain]
        macs = None if None in counts else sum(count or 0 for count in counts)
        return Layer(_name(chain), operators, tensor, reads, frozenset(parts), macs)

    def _multiply_accumulates(self, node: Any) -> int | None:
        """As ``exporters.complexity`` counts them; ``None`` where a shape isn't known."""
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return 0
        source, weight, output = map(self._shape, (*node.input[:2], node.output[0]))
        if source is None or weight is None or output is None:
            return None
        if node.op_type == "Conv":
            return math.prod(output) * math.prod(weight[1:])
        if node.op_type == "ConvTranspose":
            return math.prod(source) * math.prod(weight[1:])
        transposed = any(one.name == "transA" and one.i for one in node.attribute)
        return math.prod(output) * source[-2 if transposed else -1]

    def _shape(self, tensor: str) -> tuple[int, ...] | None:
        """A tensor's shape with 1 for a dynamic batch; ``None`` if another side is not known."""
        if tensor in self._initializers:
            return tuple(self._initializers[tensor].dims)
        known = self._types.get(tensor)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        sides = [side.dim_value for side in known.tensor_type.shape.dim]
        if sides and sides[0] == 0:
            sides[0] = 1
        return None if 0 in sides else tuple(sides)

    def _goes_into_activation(self, tensor: str) -> bool:
        consumers = self._consumers[tensor]
        return (
            tensor not in self._outputs
            and len(consumers) == 1
            and consumers[0].op_type in ACTIVATIONS
            and consumers[0].input[0] == tensor
        )

    def _is_float(self, tensor: str) -> bool:
        from onnx import TensorProto

        known = self._types.get(tensor)
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
        return known is None or known.tensor_type.elem_type in floats

    def _is_half(self, tensor: str) -> bool:
        from onnx import TensorProto

        known = self._types.get(tensor)
        return known is not None and known.tensor_type.elem_type == TensorProto.FLOAT16


def optimized(model: Path) -> Any:
    """The graph that ONNX Runtime's CPU provider really executes, as an ONNX ``GraphProto``."""
    import onnx

    # What a session would make of the model every time is what its cache holds.
    cell = Cell("", EXECUTOR, LOCAL, "f32", model.name, threads=1)
    with open_cell(cell, model, cache={}) as opened:
        (kept,) = opened.worker.cache().values()
    return onnx.load_from_string(kept).graph


def _name(chain: Sequence[Any]) -> str:
    """The module behind a chain of nodes, from its weight's name or TorchScript's node name."""
    for node in chain:
        for name in node.input[1:2]:
            stem = name
            for suffix in WEIGHT_SUFFIXES[:-1]:
                stem = stem.removesuffix(suffix)
            if stem.endswith(WEIGHT_SUFFIXES[-1]):
                return stem.removesuffix(WEIGHT_SUFFIXES[-1])
    scopes = chain[0].name.split("/")
    return scopes[-2] if len(scopes) > 2 else chain[0].name or chain[-1].output[0]


def _float(name: str, shape: Sequence[int] | None = None) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _add(model: Any, like: Any, source: str, output: str) -> None:
    """Append a copy of a QuantizeLinear or DequantizeLinear node for another tensor."""
    node = model.graph.node.add()
    node.CopyFrom(like)
    node.name, node.input[0], node.output[0] = output, source, output


def _add_cast(model: Any, source: str, output: str, *, half: bool, first: bool = False) -> None:
    """Append a Cast to float16 or float32, or put it in front of all nodes."""
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    node = helper.make_node("Cast", [source], [output], name=output, to=kind)
    if first:
        model.graph.node.insert(0, node)
    else:
        model.graph.node.append(node)


def _drop_unused(graph: Any) -> None:
    """Remove the nodes that no graph output depends on."""
    needed = {value.name for value in graph.output}
    kept = []
    # Added nodes stand at the end, after whatever they read: reversed order is enough.
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
