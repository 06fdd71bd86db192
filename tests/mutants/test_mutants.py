"""Broken models: parity catches every one, and --explain says which step and layer did it.

Each mutant is a mistake that real exports, quantizers and runtimes make. It is made in one
place, and the files of the steps before are left healthy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepipe.pipeline import parity
from edgepipe.pipeline.judging.explanation import Explanation

Edit = Callable[[Any], None]

EXPORT = ("exported.onnx", "fp32.onnx")
SIMPLIFY = ("fp32.onnx",)
QUANTIZE = ("int8.onnx",)


def initializer(graph: Any, name: str) -> Any:
    """An initializer as a writable array."""
    return numpy_helper.to_array(_named(graph.initializer, name)).copy()


def set_initializer(graph: Any, name: str, array: Any) -> None:
    """Replace an initializer's value."""
    _named(graph.initializer, name).CopyFrom(numpy_helper.from_array(array, name))


def convolution(graph: Any, layer: str) -> Any:
    """The node that reads a layer's weight."""
    return next(
        node
        for node in graph.node
        if len(node.input) > 1 and node.input[1].startswith(f"{layer}.weight")
    )


def insert_behind(graph: Any, node: Any, operator: str, *more: str, **attributes: Any) -> None:
    """Put an operator between a node and whoever reads it; graph outputs keep their name."""
    output = node.output[0]
    node.output[0] = f"{output}_before"
    added = onnx.helper.make_node(
        operator, [node.output[0], *more], [output], f"inserted_{operator}", **attributes
    )
    place = list(graph.node).index(node) + 1
    graph.node.insert(place, added)


def _named(entries: Any, name: str) -> Any:
    return next(entry for entry in entries if entry.name == name)


def shift_bias(layer: str, by: float = 0.5) -> Edit:
    name = f"{layer}.weight_bias"
    return lambda graph: set_initializer(graph, name, initializer(graph, name) + np.float32(by))


def change_weight(layer: str, change: Callable[[Any], Any], suffix: str = ".weight") -> Edit:
    def edit(graph: Any) -> None:
        name = layer + suffix
        before = initializer(graph, name)
        set_initializer(graph, name, np.ascontiguousarray(change(before), before.dtype))

    return edit


def swap(first: int, second: int) -> Callable[[Any], Any]:
    def change(weight: Any) -> Any:
        weight[[first, second]] = weight[[second, first]]
        return weight

    return change


def poke(index: Any, value: float) -> Callable[[Any], Any]:
    def change(weight: Any) -> Any:
        weight[index] = value
        return weight

    return change


def to_bfloat16(weight: Any) -> Any:
    return (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def attribute(layer: str, name: str, value: Any) -> Edit:
    def edit(graph: Any) -> None:
        node = convolution(graph, layer)
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


def behind(layer: str, operator: str, *more: str, **attributes: Any) -> Edit:
    return lambda graph: insert_behind(
        graph, convolution(graph, layer), operator, *more, **attributes
    )


def batch_statistics(layer: str) -> Edit:
    """What BatchNorm in training mode does to a batch of one: each image is its own statistic."""

    def edit(graph: Any) -> None:
        node = convolution(graph, layer)
        channels = initializer(graph, node.input[1]).shape[0]
        for name, value in (("left_scale", 1), ("left_bias", 0)):
            array = np.full(channels, value, np.float32)
            graph.initializer.append(numpy_helper.from_array(array, name))
        insert_behind(graph, node, "InstanceNormalization", "left_scale", "left_bias")

    return edit


def clip_at(position: int, side: int, bound: float) -> Edit:
    def edit(graph: Any) -> None:
        node = [node for node in graph.node if node.op_type == "Clip"][position]
        graph.initializer.append(numpy_helper.from_array(np.array(bound, np.float32), "bound"))
        node.input[side] = "bound"

    return edit


def operator(old: str, position: int, new: str) -> Edit:
    def edit(graph: Any) -> None:
        [node for node in graph.node if node.op_type == old][position].op_type = new

    return edit


def shift_input(graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "shift"))
    graph.node.insert(0, onnx.helper.make_node("Add", ["input", "shift"], ["shifted"], "shift"))
    for node in list(graph.node)[1:]:
        for number, name in enumerate(node.input):
            if name == "input":
                node.input[number] = "shifted"


def scale(tensor: str, factor: float) -> Edit:
    name = f"{tensor}_scale"
    return lambda graph: set_initializer(
        graph, name, (initializer(graph, name) * factor).astype(np.float32)
    )


def zero_point(tensor: str, by: int) -> Edit:
    def edit(graph: Any) -> None:
        name = f"{tensor}_zero_point"
        moved = initializer(graph, name).astype(np.int32) + by
        set_initializer(graph, name, np.clip(moved, 0, 255).astype(np.uint8))

    return edit


# (files, edit, layer that was broken; None where no layer is to blame)
MUTANTS: dict[str, tuple[tuple[str, ...], Edit, str | None]] = {
    "a bias shifted": (EXPORT, shift_bias("features.3.conv.0.0"), "features.3.conv.0.0"),
    "a bias shifted a little": (
        EXPORT,
        shift_bias("features.10.conv.2", 0.01),
        "features.10.conv.2",
    ),
    "two channels swapped": (
        EXPORT,
        change_weight("features.5.conv.2", swap(0, 7)),
        "features.5.conv.2",
    ),
    "two depthwise channels swapped": (
        EXPORT,
        change_weight("features.6.conv.1.0", swap(3, 4)),
        "features.6.conv.1.0",
    ),
    "a Clip bound changed": (EXPORT, clip_at(9, 2, 0.5), "features.5.conv.1.0"),
    "a weight off by 2": (
        EXPORT,
        change_weight("features.8.conv.0.0", lambda weight: weight * 2),
        "features.8.conv.0.0",
    ),
    "an output transposed": (
        EXPORT,
        behind("classifier.1", "Transpose", perm=[1, 0]),
        "classifier.1",
    ),
    "BatchNorm left in training mode": (
        EXPORT,
        batch_statistics("features.7.conv.0.0"),
        "features.7.conv.0.0",
    ),
    "NaN in one weight": (
        EXPORT,
        change_weight("features.9.conv.0.0", poke((0, 0, 0, 0), np.nan)),
        "features.9.conv.0.0",
    ),
    "padding off by one": (
        EXPORT,
        attribute("features.3.conv.1.0", "pads", [0, 0, 0, 0]),
        "features.3.conv.1.0",
    ),
    "padding on the wrong side": (
        EXPORT,
        attribute("features.5.conv.1.0", "pads", [2, 2, 0, 0]),
        "features.5.conv.1.0",
    ),
    "a kernel turned around": (
        EXPORT,
        change_weight("features.3.conv.1.0", lambda weight: weight[:, :, ::-1, ::-1]),
        "features.3.conv.1.0",
    ),
    "a layer rounded to bfloat16": (
        EXPORT,
        change_weight("features.12.conv.0.0", to_bfloat16),
        "features.12.conv.0.0",
    ),
    "a residual subtracted": (EXPORT, operator("Add", 4, "Sub"), "node_add_4"),
    "the maximum instead of the mean": (
        EXPORT,
        operator("ReduceMean", 0, "ReduceMax"),
        "node_mean",
    ),
    "classes in another order": (
        EXPORT,
        change_weight("classifier.1", lambda weight: np.roll(weight, 1, axis=0)),
        "classifier.1",
    ),
    "another normalization of the input": (EXPORT, shift_input, "features.0.0"),
    "simplified: a bias lost": (
        SIMPLIFY,
        change_weight("features.11.conv.0.0", np.zeros_like, ".weight_bias"),
        "features.11.conv.0.0",
    ),
    "simplified: half a Clip folded away": (SIMPLIFY, clip_at(20, 1, -1e9), "features.11.conv.1.0"),
    "simplified: a constant folded wrongly": (
        SIMPLIFY,
        change_weight("features.2.conv.2", lambda weight: weight * 1.01),
        "features.2.conv.2",
    ),
    "simplified: channels in another layout": (
        SIMPLIFY,
        change_weight("features.14.conv.2", lambda weight: np.roll(weight, 1, axis=1)),
        "features.14.conv.2",
    ),
    "quantized: a weight's scale off by 2": (
        QUANTIZE,
        scale("features.4.conv.0.0.weight", 2.0),
        "features.4.conv.0.0",
    ),
    "quantized: a zero point shifted": (QUANTIZE, zero_point("hardtanh_8", 60), "hardtanh_8"),
    "quantized: a range too small": (QUANTIZE, scale("getitem_33", 0.1), "getitem_33"),
    "quantized: a channel's weights lost": (
        QUANTIZE,
        change_weight("features.1.conv.0.0", poke(slice(0, 16), 0), ".weight_quantized"),
        "features.1.conv.0.0",
    ),
    "quantized: a bias at the wrong scale": (
        QUANTIZE,
        scale("features.2.conv.0.0.weight_bias_quantized", 16.0),
        "features.2.conv.0.0",
    ),
}
STEPS = {EXPORT: "exported", SIMPLIFY: "simplified", QUANTIZE: "quantized"}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_and_explained(name: str, broken: Callable[..., Path]) -> None:
    files, edit, layer = MUTANTS[name]
    variant = "int8" if files == QUANTIZE else "fp32"
    explanation = explain(broken(edit, *files), variant, "ort-cpu")
    assert explanation.step == STEPS[files]
    assert layer is None or nearby(explanation, layer), explanation.layer


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_runner_that_computes_one_layer_wrongly(
    variant: str, healthy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_faulty_runner(tmp_path, monkeypatch)
    explanation = explain(healthy, variant, "faulty")
    assert explanation.step == "runner"
    assert nearby(explanation, "features.7.conv.2"), explanation.layer


def test_openvino_is_explained_as_well(broken: Callable[..., Path]) -> None:
    edit = scale("features.4.conv.0.0.weight", 2.0)
    explanation = explain(broken(edit, *QUANTIZE), "int8", "openvino")
    assert (explanation.step, explanation.layer) == ("quantized", "features.4.conv.0.0")
    worst = explanation.layers[0]
    assert worst.own_sqnr_db is not None
    assert worst.own_sqnr_db < 10
    assert worst.sqnr_db is not None


FAULTY = """
import tempfile
from pathlib import Path
import onnx
from onnx import numpy_helper
from edgepipe.runners.backends.onnxruntime import OrtCpu

class Faulty(OrtCpu):
    name = "faulty"

    def load(self, model, settings):
        broken = onnx.load(model)
        for tensor in broken.graph.initializer:
            if tensor.name.startswith("features.7.conv.2.weight") and "scale" not in tensor.name:
                array = numpy_helper.to_array(tensor)
                if array.ndim == 4:
                    tensor.CopyFrom(numpy_helper.from_array(array[::-1].copy(), tensor.name))
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(broken.SerializeToString())
            file.flush()
            return super().load(Path(file.name), settings)
"""


def install_faulty_runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in for this process and for the workers it starts."""
    (folder / "faulty_runner.py").write_text(FAULTY)
    about = folder / "faulty_runner-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-runner\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[edgepipe.runners]\nfaulty = faulty_runner:Faulty\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def explain(root: Path, variant: str, runner: str) -> Explanation:
    """Parity fails; returns the explanation of the one cell."""
    result = parity(
        workspace=root, variants=(variant,), runners=(runner,), samples=16, explain=True
    )
    assert result.exit_code in (1, 5), "not caught"
    (explanation,) = result.explanations
    return explanation


def nearby(explanation: Explanation, expected: str) -> bool:
    """Whether the layer that was named is the expected one or its neighbour in the graph."""
    by_tensor = {layer.tensor: layer.layer for layer in explanation.layers}
    order = [(tensor, by_tensor[tensor]) for tensor in explanation.order]
    places = [number for number, names in enumerate(order) if expected in names]
    named = [number for number, names in enumerate(order) if explanation.layer in names]
    assert places, f"no layer {expected}"
    return any(abs(place - found) <= 1 for place in places for found in named)
