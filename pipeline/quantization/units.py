"""An int8 model computed one layer after the other, each from what the ones before it gave.

A unit is what lies between two QuantizeLinear: the layer that runners fuse into one operator. The
model is walked once, and a step may change a unit before it runs and the units behind it see that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..storage.onnx_models import copy_of, inner_graphs
from .draft import Data, Draft
from .qdq import QUANTIZE, QdqGraph, write
from .sessions import IR_VERSION, mean_of, session, with_means


@dataclass(frozen=True)
class Unit:
    """``nodes`` in order, from the tensors ``reads`` to the tensors ``gives``."""

    nodes: tuple[Any, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]


class Walk:
    """A QDQ model with ``samples`` on their way through it: feeds for one run each."""

    def __init__(self, model: Any, samples: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._known = {value.name: value for value in (*model.graph.input, *model.graph.output)}
        self._inputs = {value.name for value in model.graph.input}
        # Constants change on the way, their types and the graph don't.
        self._kinds = {
            node.output[0]: self._constants[node.input[2]].data_type
            for node in model.graph.node
            if node.op_type == QUANTIZE and node.input[2] in self._constants
        }
        self._values: list[dict[str, np.ndarray]] = [dict(feeds) for feeds in samples]
        self.units = tuple(self._cut())
        self._left = Counter(name for unit in self.units for name in unit.reads)

    def run(self, unit: Unit) -> None:
        """Compute a unit as the file says, node by node. What nobody reads any more is forgotten.

        Not as runners do, fused: what a kernel does wrong isn't to be made up for in the file.
        """
        made = session(self._part(unit), optimize=False)
        for values in self._values:
            feeds = {name: values[name] for name in unit.reads}
            found = made.run(list(unit.gives), feeds)
            values.update(zip(unit.gives, found, strict=True))
        self._left.subtract(unit.reads)
        for values in self._values:
            for name in unit.reads:
                if self._left[name] <= 0:
                    values.pop(name, None)

    def values(self, tensor: str) -> list[np.ndarray]:
        """A tensor that a unit reads, of each run."""
        return [values[tensor] for values in self._values]

    def means(self, unit: Unit, tensor: str) -> np.ndarray:
        """The mean of each channel of a float tensor within a unit, float64 ``[C]``."""
        made = session(with_means(self._part(unit), [tensor]))
        name = f"mean/{tensor}"
        total = sum(
            mean_of(made.run([name], {one: values[one] for one in unit.reads})[0])
            for values in self._values
        )
        return np.asarray(total) / len(self._values)

    def _cut(self) -> Iterator[Unit]:
        graph = self._model.graph
        producers = {name: node for node in graph.node for name in node.output}
        order = {id(node): place for place, node in enumerate(graph.node)}
        cuts = {
            node.output[0]
            for node in graph.node
            if node.op_type == QUANTIZE and node.input[0] not in self._constants
        }
        targets = [node.output[0] for node in graph.node if node.output[0] in cuts]
        ends = [value.name for value in graph.output]
        for gives in (*((name,) for name in targets), tuple(ends)):
            nodes: dict[int, Any] = {}
            reads: dict[str, None] = {}
            waiting = list(gives)
            while waiting:
                name = waiting.pop()
                known = name in self._inputs or (name in cuts and name not in gives)
                if known:
                    reads[name] = None
                elif name in producers and id(producers[name]) not in nodes:
                    node = producers[name]
                    nodes[id(node)] = node
                    waiting += read_by(node)
            ordered = sorted(nodes.values(), key=lambda node: order[id(node)])
            yield Unit(tuple(ordered), tuple(sorted(reads)), gives)

    def _part(self, unit: Unit) -> Any:
        """A unit as a model of its own, of the constants as they are now."""
        from onnx import helper

        read = {name for node in unit.nodes for name in read_by(node)}

        def typed(name: str) -> Any:
            return self._known.get(name) or helper.make_tensor_value_info(
                name, self._kinds[name], None
            )

        inputs, outputs = map(typed, unit.reads), map(typed, unit.gives)
        graph = helper.make_graph(
            unit.nodes,
            "unit",
            list(inputs),
            list(outputs),
            [tensor for tensor in self._model.graph.initializer if tensor.name in read],
        )
        return helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=IR_VERSION
        )


def read_by(node: Any) -> list[str]:
    """What a node reads, what its branches and loops take from outside of them included."""
    found = [name for name in node.input if name]
    for inner in inner_graphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        own.update(name for one in inner.node for name in one.output)
        given = [name for one in inner.node for name in read_by(one)]
        given += [value.name for value in inner.output]
        found += [name for name in given if name not in own]
    return found


class Visitor(Protocol):
    """Decides about one unit after the other, and what came of it."""

    def visit(self, walk: Walk, unit: Unit) -> None:
        """Look at what a unit reads, and change its constants; it runs behind that."""
        ...

    def done(self, draft: Draft) -> Draft:
        """The draft with what was decided about all units."""
        ...


@runtime_checkable
class LayerStep(Protocol):
    """A step that goes through an int8 model layer by layer, with others if they come together."""

    def visitor(self, graph: QdqGraph, draft: Draft, data: Data) -> Visitor:
        """What goes through ``graph``, the draft as it is written."""
        ...


def walked(draft: Draft, data: Data, steps: Sequence[LayerStep]) -> list[Draft]:
    """The draft after each of the steps, which take one walk together: it is what takes long."""
    graph = QdqGraph(copy_of(write(draft)))
    visitors = [step.visitor(graph, draft, data) for step in steps]
    walk = Walk(graph.model, data.samples)
    for unit in walk.units:
        for visitor in visitors:
            visitor.visit(walk, unit)
        walk.run(unit)
    drafts = []
    for visitor in visitors:
        draft = visitor.done(draft)
        drafts.append(draft)
    return drafts
