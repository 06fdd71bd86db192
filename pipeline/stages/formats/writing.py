"""A graph written with float16 inside, once the nodes that compute in it are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...storage.onnx_models import copy_of
from .fitting import as_half

CAST = "Cast"
HALF, EXACT, ROUNDED = "/half", "/exact", "/rounded"


@dataclass(frozen=True)
class Ports:
    """The float tensors at a node by their place, and those of them that may be float16."""

    inputs: Mapping[int, str]
    outputs: Mapping[int, str]
    half_inputs: frozenset[int]
    half_outputs: frozenset[int]


@dataclass
class Writer:
    """Writes the graph twice. ``halves`` are the nodes by their place, with their float tensors.

    A tensor that both kinds of nodes read has two names: its own is float32.
    """

    model: Any
    halves: Mapping[int, Ports]
    read_as_float: frozenset[str]
    constants: Mapping[str, np.ndarray]

    def halved(self) -> Any:
        """See ``HalfGraph.written``."""
        from onnx import TensorProto, numpy_helper

        names = {
            name: name + HALF if name in self.read_as_float or not self._is_half(name) else name
            for name in self._read_as_half
        }
        names |= {name: name + HALF for name in self._made_as_half & self.read_as_float}
        copy = copy_of(self.model)
        graph = copy.graph
        for value in (*graph.value_info, *graph.input):  # constants, too, in old files
            if self._is_half(value.name) and names.get(value.name, value.name) == value.name:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        for name, made in self._stored(graph, names):
            graph.initializer.append(numpy_helper.from_array(as_half(self.constants[name]), made))
        nodes = [_cast(name, names[name], TensorProto.FLOAT16) for name in self._fed(names)]
        for position, node in enumerate(graph.node):
            nodes.append(node)
            ports = self.halves.get(position)
            if ports is None:
                given = [name for name in node.output if name in names]
                nodes += [_cast(name, names[name], TensorProto.FLOAT16) for name in given]
                continue
            _read(node, ports, names)
            _retype(node)
            for place in ports.half_outputs:
                name = node.output[place]
                node.output[place] = names.get(name, name)
                if node.output[place] != name:
                    nodes.append(_cast(node.output[place], name, TensorProto.FLOAT))
        return _with_nodes(copy, nodes)

    def rounded(self) -> Any:
        """See ``HalfGraph.rounded``."""
        from onnx import numpy_helper

        names = {name: name + HALF for name in self._read_as_half if name not in self._made_as_half}
        copy = copy_of(self.model)
        graph = copy.graph
        for name, made in self._stored(graph, names):
            values = as_half(self.constants[name]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, made))
        nodes = [node for name in self._fed(names) for node in _through_half(name, names[name])]
        for position, node in enumerate(graph.node):
            nodes.append(node)
            ports = self.halves.get(position)
            if ports is None:
                for name in node.output:
                    nodes += _through_half(name, names[name]) if name in names else ()
                continue
            _read(node, ports, names)
            for place in ports.half_outputs:
                name = node.output[place]
                node.output[place] = name + EXACT
                nodes += _through_half(name + EXACT, name)
        return _with_nodes(copy, nodes)

    @cached_property
    def _read_as_half(self) -> dict[str, None]:
        """In the order of the graph, so that the file is the same every time."""
        return {
            ports.inputs[place]: None
            for ports in self.halves.values()
            for place in sorted(ports.half_inputs)
        }

    @cached_property
    def _made_as_half(self) -> set[str]:
        return {
            ports.outputs[place] for ports in self.halves.values() for place in ports.half_outputs
        }

    def _is_half(self, name: str) -> bool:
        """Whether a tensor is float16 from where it comes: a node, or a constant that can be."""
        return name in self._made_as_half or (name in self.constants and name in self._read_as_half)

    def _stored(self, graph: Any, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Constants to store anew, with their new names; those that nobody else reads go."""
        for name in self._read_as_half:
            if name not in self.constants:
                continue
            if name not in self.read_as_float:
                (old,) = (tensor for tensor in graph.initializer if tensor.name == name)
                graph.initializer.remove(old)
            yield name, names.get(name, name)

    def _fed(self, names: Mapping[str, str]) -> list[str]:
        """The graph's inputs that are needed as float16."""
        inputs = [value.name for value in self.model.graph.input]
        return [name for name in inputs if name in names and name not in self.constants]


def with_stored_constants(model: Any) -> Any:
    """A copy whose float ``Constant`` nodes are initializers."""
    from onnx import TensorProto, numpy_helper

    copy = copy_of(model)
    kept = []
    for node in copy.graph.node:
        given = {one.name: one for one in node.attribute} if node.op_type == "Constant" else {}
        tensor = None
        if "value" in given and given["value"].t.data_type == TensorProto.FLOAT:
            tensor = given["value"].t
        elif "value_float" in given:
            tensor = numpy_helper.from_array(np.array(given["value_float"].f, np.float32))
        elif "value_floats" in given:
            tensor = numpy_helper.from_array(np.array(given["value_floats"].floats, np.float32))
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        copy.graph.initializer.append(tensor)
    return _with_nodes(copy, kept)


def _read(node: Any, ports: Ports, names: Mapping[str, str]) -> None:
    for place in ports.half_inputs:
        node.input[place] = names.get(node.input[place], node.input[place])


def _retype(node: Any) -> None:
    """Have a node that says the type of what it gives say float16."""
    from onnx import TensorProto, helper, numpy_helper

    if node.op_type == CAST:
        next(one for one in node.attribute if one.name == "to").i = TensorProto.FLOAT16
    elif node.op_type == "ConstantOfShape":
        given = [numpy_helper.to_array(one.t) for one in node.attribute if one.name == "value"]
        value = as_half(given[0] if given else np.zeros(1, np.float32))
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value)))


def _cast(source: str, output: str, kind: int) -> Any:
    from onnx import helper

    return helper.make_node(CAST, [source], [output], name=f"{output}/cast", to=kind)


def _through_half(source: str, output: str) -> list[Any]:
    """A tensor rounded to float16, as float32. Runtimes keep such pairs: they change values."""
    from onnx import TensorProto

    between = output + ROUNDED
    return [
        _cast(source, between, TensorProto.FLOAT16),
        _cast(between, output, TensorProto.FLOAT),
    ]


def _with_nodes(model: Any, nodes: Iterable[Any]) -> Any:
    """The model itself with these nodes instead of its own."""
    kept = [copy_of(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
