"""What the steps of a recipe work on: a float graph, and all that is decided about its int8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from ..storage import onnx_models
from ..storage.onnx_models import copy_of
from .histograms import Calibrated
from .ranges import Range

# Operators whose weights become int8, and where they and their bias stand among the inputs.
WEIGHTED = ("Conv", "Gemm")
WEIGHT, BIAS = 1, 2
# How ONNX's own operator set is called.
DEFAULT_DOMAINS = ("", "ai.onnx")
POOL = "GlobalAveragePool"
HARD_SIGMOID, HARD_SWISH, HARD_SWISH_SINCE = "HardSigmoid", "HardSwish", 14


@dataclass(frozen=True)
class Weighted:
    """A node with constant weights: ``weights`` float32, output channels along ``axis``.

    ``groups`` is how many parts a convolution's channels are in.
    """

    node: Any
    weights: np.ndarray
    axis: int
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether every output channel sees one input channel."""
        return self.groups > 1 and self.weights.shape[1] == 1

    def along(self, figures: np.ndarray) -> np.ndarray:
        """A figure of each output channel, in a shape that meets the weights."""
        return on_axis(figures, self.weights.ndim, self.axis)

    def channels(self, which: slice | np.ndarray) -> Weighted:
        """The same node with some of its output channels alone."""
        return replace(self, weights=self.weights[self.at(which)])

    def at(self, which: slice | np.ndarray) -> tuple[slice | np.ndarray, ...]:
        """Where some output channels are in an array of the weights' shape."""
        return (*(slice(None),) * self.axis, which)

    @property
    def by_channel(self) -> np.ndarray:
        """``[output channels, everything else]``."""
        return np.moveaxis(self.weights, self.axis, 0).reshape(self.weights.shape[self.axis], -1)


@dataclass(frozen=True)
class Draft:
    """``model`` is an ONNX ``ModelProto`` in float32 whose every weighted node has a bias.

    ``ranges`` are the activations' by tensor, ``floats`` the names of nodes that aren't quantized,
    ``bits`` the weights' by node where it isn't 8. ``weights`` are int8 weights with their scales
    by node, where a step has chosen them. ``exact_pairs`` keeps what int8 kernels without
    VNNI add in 16 bits within 16 bits. ``calibrated`` are histograms of its own where a step
    changed what flows through the model. ``written`` is the finished int8 model where a step makes
    it by itself; all else is ignored then.
    """

    model: Any
    ranges: Mapping[str, Range] = field(default_factory=dict)
    floats: frozenset[str] = frozenset()
    bits: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    exact_pairs: bool = False
    calibrated: Calibrated | None = None
    written: Any = None

    def weighted(self) -> Iterator[Weighted]:
        """The nodes with constant weights, in the order of the graph."""
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

        def constant(node: Any) -> np.ndarray | None:
            tensor = constants.get(node.input[WEIGHT])
            return None if tensor is None else onnx_models.values(tensor)

        return weighted(self.model, constant)

    def biases(self) -> dict[str, np.ndarray]:
        """The bias of every weighted node, float32 ``[output channels]``."""
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        return {
            one.node.name: onnx_models.values(constants[one.node.input[BIAS]])
            for one in self.weighted()
            if len(one.node.input) > BIAS and one.node.input[BIAS] in constants
        }

    def with_biases(self, biases: Mapping[str, np.ndarray]) -> Self:
        """The same with other biases by node."""
        return self.with_constants(
            {
                one.node.input[BIAS]: biases[one.node.name]
                for one in self.weighted()
                if one.node.name in biases
            }
        )

    def with_constants(self, constants: Mapping[str, np.ndarray]) -> Self:
        """The same with other values of constants, by their names, as float32."""
        from onnx import numpy_helper

        model = copy_of(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in constants:
                values = constants[tensor.name].astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return replace(self, model=model)


@dataclass(frozen=True)
class Data:
    """What steps may look at: histograms of all calibration images, and some of them as feeds."""

    calibrated: Calibrated
    samples: Sequence[Mapping[str, np.ndarray]]


def weighted(model: Any, weights_of: Callable[[Any], np.ndarray | None]) -> Iterator[Weighted]:
    """The nodes of a graph whose weights are known, in its order; see ``Weighted``."""
    for node in model.graph.node:
        weights = weights_of(node) if node.op_type in WEIGHTED else None
        if weights is None:
            continue
        attributes = {one.name: one.i for one in node.attribute}
        if node.op_type == "Conv":
            yield Weighted(node, weights, 0, attributes.get("group", 1))
        else:
            yield Weighted(node, weights, 0 if attributes.get("transB", 0) else 1)


def on_axis(figures: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    """Figures along one of so many dimensions."""
    return figures.reshape([-1 if place == axis else 1 for place in range(dimensions)])


def opset(model: Any) -> int:
    """The version of the standard operators that a model uses, 0 if it uses none."""
    known = (one.version for one in model.opset_import if one.domain in DEFAULT_DOMAINS)
    return max(known, default=0)


def with_own_biases(model: Any) -> Any:
    """A copy in which every weighted node has a bias, a constant of its own: zeros if it had none.

    Raises nothing for a node whose bias is computed: that one is left as it is.
    """
    from onnx import numpy_helper

    model = copy_of(model)
    draft = Draft(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = set(constants)
    for one in list(draft.weighted()):
        node = one.node
        channels = one.weights.shape[one.axis]
        had = node.input[BIAS] if len(node.input) > BIAS else ""
        if had and had not in constants:
            continue
        values = onnx_models.values(constants[had]) if had else np.zeros(channels, np.float32)
        if values.size not in (1, channels):
            continue  # of a Gemm whose "bias" has a row for each image
        name = had
        users = sum(had in other.input for other in model.graph.node)
        if not had or users > 1 or values.shape != (channels,):
            name = f"{node.name or node.output[0]}.bias"
            while name in taken:
                name += "_"
            spread = np.broadcast_to(values.reshape(-1), (channels,)).copy()
            model.graph.initializer.append(numpy_helper.from_array(spread, name))
            taken.add(name)
        if len(node.input) > BIAS:
            node.input[BIAS] = name
        else:
            node.input.append(name)
    return model


def with_hard_swish(model: Any) -> Any:
    """A copy in which ``x * HardSigmoid(x)`` is one HardSwish.

    ONNX Runtime takes it apart. Its quantizer knows products and not HardSwish, and would round
    both factors, too: also what a convolution in float gives.
    """
    from onnx import helper

    model = copy_of(model)
    graph = model.graph
    if opset(model) < HARD_SWISH_SINCE:
        return model
    readers: dict[str, list[Any]] = {value.name: [] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for gate in [node for node in graph.node if node.op_type == HARD_SIGMOID]:
        if not np.allclose(line_of(gate), (1 / 6, 1 / 2)):
            continue
        (source,), (made,) = gate.input, gate.output
        reader = readers[made][0] if len(readers[made]) == 1 and made not in outputs else None
        if (
            reader is None
            or reader.op_type != "Mul"
            or sorted(reader.input) != sorted((source, made))
        ):
            continue
        whole = helper.make_node(HARD_SWISH, [source], list(reader.output), reader.name)
        reader.CopyFrom(whole)
        graph.node.remove(gate)
    return model


def with_pools(model: Any) -> Any:
    """A copy in which means over a map's rows and columns that keep both axes are average pools.

    That is how squeeze-and-excitation is exported; of the two only pools have kernels for int8.
    """
    from onnx import helper

    model = copy_of(model)
    graph = model.graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "ReduceMean" and ranks.get(node.input[0]) == len("NCHW"):
            keeps = next((one.i for one in node.attribute if one.name == "keepdims"), 1)
            if keeps and {axis % 4 for axis in _axes(node, constants)} == {2, 3}:
                (source, *_), output = node.input, list(node.output)
                node.CopyFrom(helper.make_node(POOL, [source], output, node.name))
    return model


def _axes(mean: Any, constants: Mapping[str, Any]) -> list[int]:
    """An input since opset 18, an attribute before; none where they are computed."""
    from onnx import numpy_helper

    if len(mean.input) > 1:
        tensor = constants.get(mean.input[1])
        return [] if tensor is None else numpy_helper.to_array(tensor).tolist()
    return [axis for one in mean.attribute if one.name == "axes" for axis in one.ints]


def line_of(hard_sigmoid: Any) -> tuple[float, float]:
    """Slope and value at zero, see ONNX's HardSigmoid, from where the defaults are."""
    attributes = {one.name: one.f for one in hard_sigmoid.attribute}
    return attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
