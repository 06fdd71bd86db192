"""Programs that torchao has quantized (``convert_pt2e``): each pair of its nodes as one rounding.

Its own operators run in float32 alone, and torch's older exporter doesn't know them.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..base import ModelError
from ..onnx import quiet
from .rounding import Fixed, not_eight_bits, rounding

if TYPE_CHECKING:
    import torch

NAMESPACE = "quantized_decomposed"


def holds(module: torch.nn.Module) -> bool:
    """Whether a module is a program with quantization in it."""
    import torch

    return isinstance(module, torch.fx.GraphModule) and any(map(_operator, module.graph.nodes))


def fix(module: Any) -> Fixed:
    """The program with roundings instead, its weights as floats on their grid.

    Raises ``ModelError`` for one that computes with integers, or finds its ranges at run time.
    """
    with quiet():
        program = copy.deepcopy(module)
    for node in list(program.graph.nodes):
        operator = _operator(node)
        if operator.startswith("dequantize_per_"):
            _round(program, node, operator.endswith("channel"))
    program.graph.eliminate_dead_code()
    if left := next(filter(None, map(_operator, program.graph.nodes)), None):
        raise ModelError(f"{left} has no form in ONNX that edgepipe knows")
    _drop_unread(program)
    program.recompile()
    return Fixed(program)


def _operator(node: Any) -> str:
    """The name of a node's operator, if it is one of torchao's."""
    schema = getattr(node.target, "_schema", None)
    space, _, name = (schema.name if schema else "").partition("::")
    return name if space == NAMESPACE else ""


def _round(program: Any, node: Any, per_channel: bool) -> None:
    """Replace what makes floats of integers, and what made these, by one rounding."""
    import torch

    source, scale, zero_point, *more = node.args
    axis = more.pop(0) if per_channel else None
    low, high = (int(limit) for limit in more[:2])
    if problem := not_eight_bits(low, high):
        raise ModelError(f"{node.name} {problem}")
    scales, zeros = (_value(program, one) for one in (scale, zero_point))
    known = source.op == "get_attr"
    if not known and not _operator(source).startswith("quantize_per_"):
        raise ModelError(f"{source.name} computes with integers, which can't be exported")
    name = f"rounding_{node.name}"
    setattr(program, name, rounding(scales, zeros, (low, high), axis, in_range=known))
    with program.graph.inserting_before(node):
        x = None if known else source.args[0]
        if x is None:
            integers = _value(program, source)
            shape = [1] * integers.ndim
            if axis is not None:
                shape[axis] = -1
            floats = (integers - zeros.reshape(shape)).float() * scales.float().reshape(shape)
            weight = torch.nn.Parameter(floats, requires_grad=False)
            setattr(program, f"weight_{node.name}", weight)
            x = program.graph.get_attr(f"weight_{node.name}")
        node.replace_all_uses_with(program.graph.call_module(name, (x,)))
    program.graph.erase_node(node)


def _value(program: Any, given: Any) -> torch.Tensor:
    """A number, or what a node reads from the program, as a tensor."""
    import torch

    if isinstance(given, int | float):
        return torch.tensor(given)
    if given.op != "get_attr":
        raise ModelError(f"{given.name} is a range that is found at run time (dynamic)")
    found = program
    for name in given.target.split("."):
        found = getattr(found, name)
    return found


def _drop_unread(program: Any) -> None:
    """Without the weights as they were before: a file would hold them as well."""
    read = {node.target for node in program.graph.nodes if node.op == "get_attr"}
    called = tuple(f"{node.target}." for node in program.graph.nodes if node.op == "call_module")
    for name in list(program.state_dict()):
        if name not in read and not name.startswith(called):
            owner, _, last = name.rpartition(".")
            delattr(program.get_submodule(owner), last)
