"""A classifier of 64 pixels with 2.5 GB of weights, as a module and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

HIDDEN, FEATURES, CLASSES = 38400, 4096, 10
PIXELS = 64
CHUNK = 1 << 24


class Wide(nn.Sequential):
    """Two convolutions, then four products of 157 million weights each."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        linear = []
        for _ in range(2):
            linear += [
                nn.Linear(FEATURES, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, FEATURES),
                nn.ReLU(),
            ]
        super().__init__(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=4, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            *linear,
            nn.Linear(FEATURES, CLASSES),
        )
        for part in self.modules():
            if isinstance(part, nn.Linear):  # so that answers differ as much as inputs do
                nn.init.kaiming_normal_(part.weight)


def write(path: Path) -> None:
    """The same as an ONNX file with external data, one tensor after the other, none of it held."""
    rng = np.random.default_rng(0)
    tensors, nodes = [], []
    with path.with_suffix(".weights").open("wb") as data:

        def tensor(name: str, shape: list[int], scale: float) -> str:
            made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            made.data_location = TensorProto.EXTERNAL
            count, offset = int(np.prod(shape)), data.tell()
            for start in range(0, count, CHUNK):
                values = rng.standard_normal(min(CHUNK, count - start), np.float32)
                data.write((values * np.float32(scale)).tobytes())
            where = {"location": Path(data.name).name, "offset": offset, "length": 4 * count}
            for key, value in where.items():
                made.external_data.add(key=key, value=str(value))
            tensors.append(made)
            return name

        def layer(operator: str, source: str, name: str, shape: list[int], **how: Any) -> str:
            scale = (2 / int(np.prod(shape[1:]))) ** 0.5
            weights = tensor(f"{name}.weight", shape, scale), tensor(f"{name}.bias", shape[:1], 0.1)
            nodes.append(helper.make_node(operator, [source, *weights], [name], name, **how))
            return name

        def activated(source: str) -> str:
            nodes.append(helper.make_node("Relu", [source], [f"{source}.relu"]))
            return f"{source}.relu"

        last = activated(layer("Conv", "input", "a", [32, 3, 3, 3], strides=[2, 2], pads=[1] * 4))
        last = activated(layer("Conv", last, "b", [64, 32, 3, 3], strides=[4, 4], pads=[1] * 4))
        nodes.append(helper.make_node("Flatten", [last], ["flat"]))
        last = "flat"
        for number in range(2):
            for name, shape in (("up", [HIDDEN, FEATURES]), ("down", [FEATURES, HIDDEN])):
                last = activated(layer("Gemm", last, f"{name}{number}", shape, transB=1))
        layer("Gemm", last, "logits", [CLASSES, FEATURES], transB=1)
    sizes: list[tuple[str, list[str | int]]] = [
        ("input", ["batch", 3, PIXELS, PIXELS]),
        ("logits", ["batch", CLASSES]),
    ]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, at) for name, at in sizes)
    graph = helper.make_graph(nodes, "wide", [given], [made], tensors)
    sets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), path)
