"""Small float nets as the quantizer prepares them, with images and what calibration finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgepipe.pipeline.quantization.draft import Data, Draft, with_own_biases
from edgepipe.pipeline.quantization.histograms import Collector
from edgepipe.pipeline.quantization.operations import first_nodes
from edgepipe.pipeline.quantization.sessions import all_tensors, session

SIDE = 12


@dataclass(frozen=True)
class Made:
    """A draft without ranges, what steps may look at, and images that they never see."""

    draft: Draft
    data: Data
    held_out: Sequence[Mapping[str, np.ndarray]]

    def answers(self, model: Any) -> np.ndarray:
        """A model's outputs for what was held out."""
        run = session(model).run
        return np.concatenate([run(None, dict(feeds))[0] for feeds in self.held_out])


def residual_net(
    activation: str = "Relu", seed: int = 0, channels: int = 16, spread: float = 1.0
) -> Any:
    """Convolutions as MobileNetV2 has them: full, depthwise, pointwise, added, pooled, a Gemm.

    ``spread`` is how different channels' sizes are (a standard deviation of logarithms).
    """
    random = np.random.default_rng(seed)
    nodes, constants = [], []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(source: str, name: str, shape: tuple[int, ...], *, act: bool, groups: int = 1) -> str:
        size = np.exp(random.normal(0, spread, (shape[0], 1, 1, 1)))
        values = random.normal(size=shape) * size / np.sqrt(np.prod(shape[1:]))
        bias = random.normal(size=shape[0]) * 0.2
        pad = shape[2] // 2
        nodes.append(
            helper.make_node(
                "Conv",
                [source, constant(f"{name}.weight", values), constant(f"{name}.bias", bias)],
                [f"{name}.out"],
                name,
                group=groups,
                pads=[pad] * 4,
                kernel_shape=list(shape[2:]),
            )
        )
        if not act:
            return f"{name}.out"
        more = []
        if activation == "Clip":
            more = [constant(f"{name}.low", np.array(0.0)), constant(f"{name}.high", np.array(6.0))]
        nodes.append(
            helper.make_node(activation, [f"{name}.out", *more], [f"{name}.act"], f"{name}.a")
        )
        return f"{name}.act"

    stem = conv("input", "stem", (channels, 3, 3, 3), act=True)
    narrow = conv(stem, "narrow", (channels, channels, 1, 1), act=False)
    wide = conv(narrow, "expand", (2 * channels, channels, 1, 1), act=True)
    deep = conv(wide, "depthwise", (2 * channels, 1, 3, 3), act=True, groups=2 * channels)
    back = conv(deep, "project", (channels, 2 * channels, 1, 1), act=False)
    nodes.append(helper.make_node("Add", [narrow, back], ["sum"], "add"))
    head = conv("sum", "head", (2 * channels, channels, 1, 1), act=True)
    nodes.append(helper.make_node("GlobalAveragePool", [head], ["pool"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], "flatten"))
    weights = random.normal(size=(10, 2 * channels)) / np.sqrt(channels)
    gemm = [constant("fc.weight", weights), constant("fc.bias", np.zeros(10))]
    nodes.append(helper.make_node("Gemm", ["flat", *gemm], ["logits"], "fc", transB=1))
    shapes = {"input": [1, 3, SIDE, SIDE], "logits": [1, 10]}
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def made(model: Any, images: int = 24, *, exact_pairs: bool = False) -> Made:
    """A net with images, of which two thirds calibrate it."""
    random = np.random.default_rng(1)
    feeds = [
        {"input": random.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(images)
    ]
    count = 2 * images // 3
    model = with_own_biases(model)
    compute, collector = all_tensors(model), Collector(count)
    for some in feeds[:count]:
        collector.take({**compute(some), **some}, 1)
    draft = Draft(model, floats=frozenset(first_nodes(model.graph)), exact_pairs=exact_pairs)
    return Made(draft, Data(collector.done(), feeds[:count]), feeds[count:])
