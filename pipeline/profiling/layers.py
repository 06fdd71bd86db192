"""Which layer a node belongs to, and what layers cost.

A runner fuses the file's nodes and names what comes out in ways of its own. OpenVINO says which
nodes became one; ONNX Runtime's names are those of a node or tensor of the file with something
behind, which is taken off again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...runners.base import NodeTime
from ..stages.graphs import Layer
from .profile_result import INT8, LayerTime, Node, OperatorTime, Peak

# What ONNX Runtime (optimizer/*.cc, GenerateUniqueNodeName) and OpenVINO put behind a name.
BEHIND = re.compile(
    r"(_token_\d+|_nchwc|_nhwc|_(Quantize|Dequantize)Linear(_Input|_Output|_\d+)?|_d?q"
    r"|/\w+Fusion/?|/(WithoutBiases|DequantizationMultiply))$"
)
BEFORE = "fused "
# Operators that change types or layouts for other nodes.
CONVERSIONS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Cast"}
    | {"Reorder", "Convert", "FakeQuantize"}
)
# Others that do so where the runner has put them in: no layer of the file is called like them.
PUT_IN = frozenset({"Transpose", "Reshape"})
FLOATS = frozenset({"f64", "f32", "tf32", "f16", "bf16"})


@dataclass(frozen=True)
class Named:
    """A node with its layer, ``None`` where it belongs to no one of the file's."""

    node: NodeTime
    layer: Layer | None

    @property
    def conversion(self) -> bool:
        """Whether it only changes a type or a layout."""
        operator = self.node.operator
        return operator in CONVERSIONS or (self.layer is None and operator in PUT_IN)


def named(nodes: Iterable[NodeTime], layers: Sequence[Layer]) -> list[Named]:
    """Each node with the layer that it comes from."""
    by_part = {part: layer for layer in reversed(layers) for part in layer.parts}
    return [Named(node, _layer_of(node, by_part)) for node in nodes]


def _layer_of(node: NodeTime, by_part: Mapping[str, Layer]) -> Layer | None:
    """Of several that were fused the one that computes most: an addition goes with its product."""
    known = [by_part[name] for name in map(_known(by_part), node.originals) if name]
    if known:
        return max(known, key=lambda layer: layer.macs or 0)
    name = _known(by_part)(node.name)
    return by_part[name] if name else None


def _known(by_part: Mapping[str, Layer]) -> Callable[[str], str | None]:
    """What finds the part of a layer that a name begins with."""

    def find(name: str) -> str | None:
        name = name.removeprefix(BEFORE)
        while name not in by_part:
            shorter = BEHIND.sub("", name)
            if shorter == name:
                return None
            name = shorter
        return name

    return find


def shown(found: Sequence[Named]) -> tuple[Node, ...]:
    """The nodes as the result has them."""
    total = sum(one.node.us for one in found)
    return tuple(
        Node(
            name=one.node.name,
            operator=one.node.operator,
            kernel=one.node.kernel,
            precision=one.node.precision,
            provider=one.node.provider,
            us=one.node.us,
            share=_share(one.node.us, total),
            layer=one.layer.name if one.layer else None,
            conversion=one.conversion,
        )
        for one in found
    )


def by_operator(found: Sequence[Named]) -> tuple[OperatorTime, ...]:
    """The time of each operator in each precision, the costliest first."""
    total = sum(one.node.us for one in found)
    groups: dict[tuple[str, str], list[float]] = {}
    for one in found:
        groups.setdefault((one.node.operator, one.node.precision), []).append(one.node.us)
    times = [
        OperatorTime(operator, precision, len(us), sum(us), _share(sum(us), total))
        for (operator, precision), us in groups.items()
    ]
    return tuple(sorted(times, key=lambda one: one.us, reverse=True))


@dataclass
class _Group:
    """The nodes that compute a layer, the conversions behind it, and those right before it."""

    nodes: list[Named]
    conversion_us: float = 0.0
    before_us: float = 0.0
    after: list[float] = field(default_factory=list)

    @property
    def main(self) -> Named:
        return max(self.nodes, key=lambda one: one.node.us)


def by_layer(found: Sequence[Named], layers: Sequence[Layer], images: int) -> tuple[LayerTime, ...]:
    """The time of each layer that was executed as such, in the order of execution.

    ``images`` is what the layers' counts of multiply-accumulates are to be multiplied by.
    """
    total = sum(one.node.us for one in found)
    groups = _groups(found)
    between = _between(groups, layers)
    times = []
    for key, group in groups.items():
        main, layer = group.main.node, group.main.layer
        us = sum(one.node.us for one in group.nodes)
        macs = layer.macs * images if layer and layer.macs else None
        times.append(
            LayerTime(
                layer=layer.name if layer else main.name,
                operators=layer.operators if layer else main.operator,
                kernel=main.kernel or main.operator,
                precision=main.precision,
                us=us,
                conversion_us=group.conversion_us,
                share=_share(us + group.conversion_us, total),
                macs=macs,
                gmacs_per_s=macs / us / 1e3 if macs and us else None,
                between_int8=key in between,
                around_us=group.before_us + sum(group.after) if key in between else None,
            )
        )
    return tuple(times)


def against(layers: Iterable[LayerTime], peaks: Sequence[Peak]) -> tuple[LayerTime, ...]:
    """The layers with their share of the peak of their precision."""
    most = {peak.precision: peak.gmacs_per_s for peak in peaks}
    return tuple(
        replace(layer, peak_share=layer.gmacs_per_s / most[layer.precision])
        if layer.gmacs_per_s is not None and most.get(layer.precision)
        else layer
        for layer in layers
    )


def _groups(found: Sequence[Named]) -> dict[str, _Group]:
    """The layers' nodes by layer, in the order of execution; a layer's may lie apart."""
    groups: dict[str, _Group] = {}
    last: _Group | None = None
    waiting = 0.0  # conversions since the last layer
    ahead = 0.0  # those before the first one
    for one in found:
        if one.conversion:
            waiting += one.node.us
            if last is None:
                ahead += one.node.us
            else:
                last.conversion_us += one.node.us
                last.after.append(one.node.us)
            continue
        key = one.layer.tensor if one.layer else f"\0{one.node.name}"
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group([], before_us=waiting)
        group.nodes.append(one)
        if last is None:
            group.conversion_us += ahead
        last, waiting = group, 0.0
    return groups


def _between(groups: Mapping[str, _Group], layers: Sequence[Layer]) -> set[str]:
    """The float layers that int8 layers lead to and that lead to int8 layers.

    By the file's graph; for what is no layer of the file by the order of execution.
    """
    kinds = {key: group.main.node.precision for key, group in groups.items()}
    order = list(kinds)
    int8 = [place for place, key in enumerate(order) if kinds[key] == INT8]
    if not int8:
        return set()
    behind: set[str] = set()
    for layer in layers:
        if any(one in behind or kinds.get(one) == INT8 for one in layer.reads):
            behind.add(layer.tensor)
    ahead: set[str] = set()
    for layer in reversed(layers):
        if layer.tensor in ahead or kinds.get(layer.tensor) == INT8:
            ahead |= layer.reads
    inside = set(order[int8[0] : int8[-1]])
    in_file = {layer.tensor for layer in layers}
    return {
        key
        for key, kind in kinds.items()
        if kind in FLOATS and (key in behind & ahead if key in in_file else key in inside)
    }


def _share(us: float, total: float) -> float:
    return us / total if total else 0.0
