"""What makes a quantized model slow or wrong, read from its graph, its ranges and the CPU."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runners.machine import host
from ..numerics.precision import FOREIGN
from ..quantization.qdq import DEQUANTIZE, QUANTIZE, worst_of_layers
from ..quantization.scales import MOST_OF_A_PAIR
from ..stages import graphs
from ..storage.manifest import Manifest

# A layer of which more than this share of values lies outside its calibrated range.
CLIPPED_SHARE = 0.001
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Finding:
    """``kind`` is "unfused", "float-island", "saturation" or "no-vnni".

    Of a file that somebody else quantized also "signed-activations", "dynamic", "unsigned-weights",
    "zero-points" or "per-tensor".
    """

    kind: str
    text: str
    layers: tuple[str, ...] = ()


def recorded(manifest: Manifest, variant: str) -> list[Finding]:
    """What was found of a quantized file when it was imported."""
    stage = manifest.stage(variant) if variant in FOREIGN else None
    return [Finding(**one) for one in stage.result["troubles"]] if stage else []


def of_kernels(graph: Any) -> list[Finding]:
    """Unfused pairs and float islands in a graph as ONNX Runtime executes it."""
    producers = {output: node for node in graph.node for output in node.output}
    pairs = unfused(graph)
    found = []
    if pairs:
        text = f"QuantizeLinear/DequantizeLinear pairs that are not fused: {len(pairs)}"
        found.append(Finding("unfused", text, tuple(pairs)))
    islands = _islands(graph, producers)
    if islands:
        kinds = Counter(kind for island in islands for kind in island.values())
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        text = f"float islands between int8 nodes: {len(islands)} ({listed})"
        names = tuple(name for island in islands for name in island)
        found.append(Finding("float-island", text, names))
    return found


def unfused(graph: Any) -> list[str]:
    """The DequantizeLinear nodes of such a graph that come right behind a QuantizeLinear."""
    producers = {output: node for node in graph.node for output in node.output}
    return [
        node.name
        for node in graph.node
        if node.op_type == DEQUANTIZE and _kind(producers.get(node.input[0])) == QUANTIZE
    ]


def of_convolutions(convolutions: Mapping[str, int]) -> list[Finding]:
    """Convolutions that a runner says it computes in float, from ``Placement.convolutions``.

    The first one is expected to: its three channels don't fill an int8 kernel.
    """
    total = sum(convolutions.values())
    floats = total - convolutions.get("int8", 0)
    if floats <= 1:
        return []
    return [Finding("float-island", f"{floats} of {total} convolutions are computed in float")]


def of_ranges(clipped: Mapping[str, float]) -> list[Finding]:
    """Layers whose values leave their calibrated range. ``clipped``: the share in each layer."""
    worst = sorted(
        (name for name, share in clipped.items() if share > CLIPPED_SHARE),
        key=lambda name: -clipped[name],
    )
    if not worst:
        return []
    listed = ", ".join(f"{name} {clipped[name]:.1%}" for name in worst[:SHOWN_NAMES])
    text = f"layers with values outside their calibrated range: {len(worst)} ({listed})"
    return [Finding("saturation", text, tuple(worst))]


def of_cpu(model: Path, facts: Mapping[str, Any]) -> list[Finding]:
    """A CPU without VNNI, and the layers whose products can leave 16 bits there.

    ``facts`` are those of ``runners.host`` about the machine that the cell ran on.
    Without VNNI, x86 kernels multiply unsigned activations by signed weights with pmaddubsw,
    which adds neighbouring products in 16 bits and saturates (Intel SDM, "PMADDUBSW").
    """
    if not host.saturates(facts):
        return []
    import onnx

    names = graphs.LayerGraph(model).names
    pairs = {
        names.get(node, node): pair for node, pair in worst_of_layers(onnx.load(model)).items()
    }
    risky = sorted((name for name in pairs if pairs[name] > MOST_OF_A_PAIR), key=pairs.__getitem__)
    if not risky:
        text = "the CPU has no VNNI; these weights are small enough that no sum can leave 16 bits"
        return [Finding("no-vnni", text)]
    listed = ", ".join(f"{name} {pairs[name]}" for name in reversed(risky[-SHOWN_NAMES:]))
    text = (
        f"the CPU has no VNNI: sums can leave 16 bits in {len(risky)} of {len(pairs)} layers "
        f"(neighbouring weights add up to {listed}; {MOST_OF_A_PAIR} fits); "
        "int8-avx2 can't saturate"
    )
    return [Finding("no-vnni", text, tuple(reversed(risky)))]


def _islands(graph: Any, producers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Connected float nodes with int8 before and behind them: node name -> operator."""
    integer = _integer_tensors(graph)
    known = {tensor.name for tensor in graph.initializer}
    floats = [
        node
        for node in graph.node
        if node.op_type not in (QUANTIZE, DEQUANTIZE)
        and not integer.intersection(node.input)
        and any(name and name not in known for name in node.input)
    ]
    consumers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    group = {node.name: number for number, node in enumerate(floats)}
    for node in floats:
        for name in node.input:
            before = producers.get(name)
            if before is not None and before.name in group:
                old, new = group[before.name], group[node.name]
                group = {key: new if value == old else value for key, value in group.items()}
    islands = []
    for number in dict.fromkeys(group.values()):
        members = [node for node in floats if group[node.name] == number]
        entered = any(_kind(producers.get(name)) == DEQUANTIZE for n in members for name in n.input)
        left = any(
            follower.op_type == QUANTIZE
            for node in members
            for name in node.output
            for follower in consumers[name]
        )
        if entered and left:
            islands.append({node.name: node.op_type for node in members})
    return islands


def _integer_tensors(graph: Any) -> set[str]:
    """Tensors that hold quantized values: what quantized operators give, and what passes it on."""
    integer: set[str] = set()
    for node in graph.node:
        quantized = node.op_type.startswith(("QLinear", "QGemm", QUANTIZE))
        passed_on = node.op_type != DEQUANTIZE and not integer.isdisjoint(node.input[:1])
        if quantized or passed_on:
            integer.update(node.output)
    return integer


def _kind(node: Any) -> str:
    return "" if node is None else str(node.op_type)
