"""What a model costs before anything is run: parameters, multiply-accumulates, memory.

Everything is read from the graph that ``torch.export`` makes. A module of the zoo is traced on
torch's "meta" device, where tensors have shapes and no values, which takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .weights.sources import construct

if TYPE_CHECKING:
    import torch

# Operators that give back an input's memory under another shape, or do nothing in inference, and
# padding, which runners fold into the convolution behind it.
VIEWS = frozenset(
    {"view", "reshape", "flatten", "unsqueeze", "squeeze", "permute", "transpose", "expand"}
    | {"dropout", "detach", "alias", "getitem", "slice", "select", "contiguous", "to", "_to_copy"}
    | {"pad"}
)
# Elementwise ones, which runners let write into an input that nobody needs any more, or fuse
# into the operator before them.
IN_PLACE = frozenset(
    {"batch_norm", "relu", "relu6", "hardtanh", "clamp", "silu", "sigmoid", "gelu", "hardswish"}
    | {"hardsigmoid", "add", "sub", "mul", "div", "leaky_relu", "elu", "tanh"}
)


@dataclass(frozen=True)
class Complexity:
    """``macs`` are multiply-accumulates of one image, ``activation_peak_bytes`` the largest sum
    of the activations that are alive at the same time, as float32 and for one image. Both are
    ``None`` where a shape depends on the values in the input, so that nobody knows them before,
    and of TorchScript, of which there is no program to count in.
    """

    parameters: int
    macs: int | None
    activation_peak_bytes: int | None


def of_architecture(
    architecture: str, size: int, classes: int = 1000, width: float | None = None
) -> Complexity:
    """The complexity of a model of the zoo at ``size`` pixels. No weights are made.

    Raises ``ModelError`` for an unknown name.
    """
    import torch

    with torch.device("meta"):
        module = construct(architecture, classes, width).eval()
        return of_program(torch.export.export(module, (torch.zeros(1, 3, size, size),)), 1)


def of_program(program: torch.export.ExportedProgram, batch: int) -> Complexity:
    """The complexity of an exported program, for one image.

    ``batch`` images were in the inputs that it was exported with, a dynamic axis included.
    """
    parameters = sum(parameter.numel() for parameter in program.parameters())
    if any(None in (_shape(node) or ()) for node in program.graph.nodes):
        return Complexity(parameters, None, None)
    return Complexity(
        parameters=parameters,
        macs=sum(multiply_accumulates(program).values()) // batch,
        activation_peak_bytes=activation_peak(program) // batch,
    )


def uncounted(module: torch.nn.Module) -> Complexity:
    """The parameters of a module that there is no program of."""
    return Complexity(sum(one.numel() for one in module.parameters()), None, None)


def multiply_accumulates(program: torch.export.ExportedProgram) -> Mapping[str, int]:
    """Multiply-accumulates of each convolution, linear layer and matrix product, by node name.

    A convolution takes as many for each element of its output as a filter has weights; a linear
    layer as many as it has inputs. Biases, normalizations, activations and pools are not
    counted: papers and torchvision's pages don't count them either.
    """
    counts: dict[str, int] = {}
    for node in program.graph.nodes:
        kind = _kind(node)
        if kind in ("conv2d", "conv1d", "conv3d", "convolution"):
            counts[node.name] = _numel(node) * math.prod(_shape(node.args[1])[1:])
        elif kind == "linear" or kind in ("matmul", "mm", "bmm"):
            counts[node.name] = _numel(node) * _shape(node.args[0])[-1]
        elif kind == "addmm":
            counts[node.name] = _numel(node) * _shape(node.args[1])[-1]
    return counts


def activation_peak(program: torch.export.ExportedProgram) -> int:
    """The largest sum, in bytes, of the activations that are alive at the same time.

    Nodes run in the graph's order. An activation lives from the node that makes it to the last
    one that reads it; the input counts, weights don't. Views share memory with what they are
    views of, and elementwise operators write over an input that dies there and is as large. A
    runner's arena can need more than this (padding, scratch space of a convolution) and, where
    it fuses more than elementwise operators, less.
    """
    nodes = list(program.graph.nodes)
    weights = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind.name != "USER_INPUT"
    }
    storage = _storages(nodes, weights)
    last: dict[Any, int] = {}
    for place, node in enumerate(nodes):
        for source in node.all_input_nodes:
            if source in storage:
                last[storage[source]] = place
    live: dict[Any, int] = {}
    peak = 0
    for place, node in enumerate(nodes):
        owner = storage.get(node)
        if owner is node:
            dying = [
                other
                for other in (storage.get(source) for source in node.all_input_nodes)
                if other is not None and last[other] == place
            ]
            size = _bytes(node)
            reused = _kind(node) in IN_PLACE and any(live.get(one) == size for one in dying)
            live[node] = size
            peak = max(peak, sum(live.values()) - (size if reused else 0))
        for done in [one for one in live if last.get(one, place) <= place and one is not node]:
            del live[done]
    return peak


def _storages(nodes: list[Any], weights: set[str]) -> dict[Any, Any]:
    """Each activation's node -> the node that its memory comes from."""
    storage: dict[Any, Any] = {}
    for node in nodes:
        if node.op == "placeholder" and node.name not in weights:
            storage[node] = node
        elif node.op == "call_function" and _shape(node) is not None:
            kind = _kind(node)
            source = node.args[0] if node.args else None
            shares = kind in VIEWS or kind.endswith("_")
            storage[node] = storage.get(source, node) if shares else node
    return storage


def _kind(node: Any) -> str:
    """An operator without its namespace and overload: "conv2d", "relu_"."""
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "_schema", None)
    if name is None:
        return getattr(node.target, "__name__", "")
    return name.name.rpartition("::")[2]


def _shape(node: Any) -> Any:
    """The shape that a node was traced with, a dynamic axis as long as it was in the example.

    ``None`` for one that depends on values.
    """
    value = getattr(node, "meta", {}).get("val")
    shape = getattr(value, "shape", None)
    if shape is None:
        return None
    return tuple(side if isinstance(side, int) else side.node.hint for side in shape)


def _numel(node: Any) -> int:
    return math.prod(_shape(node))


def _bytes(node: Any) -> int:
    return _numel(node) * node.meta["val"].element_size()
