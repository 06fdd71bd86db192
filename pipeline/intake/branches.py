"""Branches whose condition is known: the graph gets the nodes of the one that is taken.

Runtimes do so by themselves, but not with every graph: ONNX Runtime 1.32 fails on branches inside
of the one that is taken, OpenVINO 2026.4 on the one that isn't.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..quantization.draft import DEFAULT_DOMAINS
from ..storage.onnx_models import copy_of, inner_graphs

# What makes a condition out of single numbers, and what a number is read as here.
CONDITIONS: Mapping[str, Callable[..., np.ndarray]] = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Identity": np.asarray,
}
NUMBERS = "biuf"


def take_decided(graph: Any) -> None:
    """Put a branch's nodes in the place of each If that constants of the graph decide.

    An If inside of another, or of a loop, stays unless that becomes part of the graph.
    """
    known = {one.name: value for one in graph.initializer if (value := _number(one)) is not None}
    defined = Counter(_defined(graph))
    made, pending = [], deque(graph.node)
    while pending:
        node = pending.popleft()
        branch = _taken(node, known)
        if branch is not None:
            pending.extendleft(reversed(_inlined(node, branch, graph, defined)))
            continue
        made.append(node)
        if (value := _single_value(node, known)) is not None:
            known[node.output[0]] = value
    del graph.node[:]
    graph.node.extend(made)


def _taken(node: Any, known: Mapping[str, np.ndarray]) -> Any | None:
    """The branch that an If takes; ``None`` for an undecided one, and for any other node."""
    decided = node.op_type == "If" and node.domain in DEFAULT_DOMAINS and len(node.input) == 1
    if not decided or node.input[0] not in known:
        return None
    wanted = "then_branch" if known[node.input[0]].item() else "else_branch"
    branches = [one.g for one in node.attribute if one.name == wanted]
    fits = len(branches) == 1 and len(branches[0].output) == len(node.output)
    return branches[0] if fits else None


def _inlined(node: Any, branch: Any, graph: Any, defined: Counter[str]) -> list[Any]:
    """A branch's nodes for the graph that its If stands in, which gets its constants.

    Names that are ``defined`` elsewhere as well, as two branches may do, become others.
    """
    from onnx import helper

    copy = copy_of(branch)
    others = {}
    for name in _own(copy):
        new = name
        while defined[new] > (new == name):
            new = f"{node.output[0]}/{new}"
        defined[name] -= 1
        defined[new] += 1
        others[name] = new
    _rename(copy, others)
    graph.initializer.extend(copy.initializer)
    pairs = zip(copy.output, node.output, strict=True)
    return [
        *copy.node,
        *(helper.make_node("Identity", [one.name], [name]) for one, name in pairs if name),
    ]


def _own(graph: Any) -> Iterator[str]:
    """The values that a graph itself defines."""
    yield from (one.name for one in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _defined(graph: Any) -> Iterator[str]:
    """The values that a graph and those inside it define."""
    yield from (one.name for one in graph.input)
    yield from _own(graph)
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from _defined(inner)


def _rename(graph: Any, others: Mapping[str, str]) -> None:
    """Give values other names, wherever a graph and those inside it speak of them."""
    for one in (*graph.initializer, *graph.output):
        one.name = others.get(one.name, one.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [others.get(name, name) for name in names]
        for inner in inner_graphs(node):
            _rename(inner, others)


def _single_value(node: Any, known: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The single number that a node gives, if it follows from ``known`` ones."""
    from onnx import helper

    usual = node.domain in DEFAULT_DOMAINS and len(node.output) == 1
    if not usual or not all(name in known for name in node.input):
        return None
    given = [known[name] for name in node.input]
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    try:
        if node.op_type == "Constant":
            return _number(attributes["value"])
        if node.op_type == "Cast":
            (one,) = given
            with np.errstate(all="ignore"):
                return one.astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
        return CONDITIONS[node.op_type](*given)
    except (KeyError, TypeError, ValueError):  # another operator, or one that a runtime refuses
        return None


def _number(tensor: Any) -> np.ndarray | None:
    """A constant's only number; ``None`` for one of more, and for text."""
    from onnx import numpy_helper

    if math.prod(tensor.dims) != 1:
        return None
    value = numpy_helper.to_array(tensor)
    return value if value.dtype.kind in NUMBERS else None
