"""QDQ models in ONNX: weights as the integers that they are quantized to."""

from __future__ import annotations

from typing import Any

from ..base import ModelError

# Nodes that a constant comes through on its way to being an integer.
ON_THE_WAY = frozenset({"Cast", "CastLike", "Clip", "Identity", "QuantizeLinear"})


def with_integer_weights(model: bytes) -> bytes:
    """The model with every constant that is quantized stored as integers, a quarter of the size.

    The same values: each node on the way is computed as ONNX defines it. Raises ``ModelError``
    for a model in which nothing is quantized.
    """
    import onnx

    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ModelError(
            "nothing is quantized in the exported file: forward calls no fake quantization"
        )
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    constants |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    kept = []
    for node in graph.node:
        known = all(name in constants for name in node.input if name)
        if node.op_type in ON_THE_WAY and known:
            constants[node.output[0]] = _computed(node, constants)
        else:
            kept.append(node)
    _store(graph, kept, constants)
    return loaded.SerializeToString(deterministic=True)


def _computed(node: Any, constants: dict[str, Any]) -> Any:
    from onnx.reference import ReferenceEvaluator

    feeds = {name: constants[name] for name in node.input if name}
    (found,) = ReferenceEvaluator(node).run(None, feeds)
    return found


def _store(graph: Any, nodes: list[Any], constants: dict[str, Any]) -> None:
    """Leave these nodes, and of the constants those that they, or the graph's outputs, read."""
    import onnx

    read = {name for node in nodes for name in _reads(node)} | {one.name for one in graph.output}
    made = {name for node in nodes for name in node.output}
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.op_type != "Constant" or _read(node, read))
    before = {one.name: one for one in graph.initializer if one.name in read}
    new = sorted((read & set(constants)) - made - set(before))
    del graph.initializer[:]
    graph.initializer.extend(before.values())
    graph.initializer.extend(onnx.numpy_helper.from_array(constants[name], name) for name in new)


def _read(node: Any, read: set[str]) -> bool:
    return any(name in read for name in node.output)


def _reads(node: Any) -> list[str]:
    """What a node reads, the nodes in its branches and loops as well."""
    inside = [one for attribute in node.attribute for one in attribute.g.node]
    return [*node.input, *(name for one in inside for name in _reads(one))]
