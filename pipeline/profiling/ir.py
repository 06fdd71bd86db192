"""Which layers the operations of an OpenVINO IR are: it keeps no names of modules.

It is made of the same program as the ONNX file, and batch normalization is folded into nameless
weights in both. So their convolutions and products are held against each other in order: if each
one takes as many multiply-accumulates as the other, they are the same layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from ..stages.graphs import Layer

SUFFIX = ".xml"
# Operations that multiply -> how many sides of their weights' shape are outputs and groups.
PRODUCTS = {"Convolution": 1, "GroupConvolution": 2}
MATMUL = "MatMul"


def with_operations(layers: Sequence[Layer], file: Path) -> tuple[Layer, ...] | None:
    """The layers, which now know their operations in the IR; ``None`` where the two don't match."""
    multiplying = [layer for layer in layers if layer.macs]
    found = list(_products(file))
    if [macs for _, macs in found] != [layer.macs for layer in multiplying]:
        return None
    names = {layer.tensor: name for layer, (name, _) in zip(multiplying, found, strict=True)}
    return tuple(
        replace(layer, parts=layer.parts | {names[layer.tensor]})
        if layer.tensor in names
        else layer
        for layer in layers
    )


def _products(file: Path) -> Iterator[tuple[str, int]]:
    """Name and multiply-accumulates of each convolution and product, in the file's order.

    Of one image where the batch is dynamic, as ``Layer.macs``.
    """
    root = ElementTree.parse(file).getroot()  # noqa: S314 - of the workspace, by its digest
    for operation in root.iterfind("layers/layer"):
        kind, name = operation.get("type", ""), operation.get("name", "")
        shapes = [_shape(port) for port in operation.iterfind("input/port")]
        output = next(map(_shape, operation.iterfind("output/port")), ())
        if kind in PRODUCTS and len(shapes) > 1:
            yield name, math.prod(output) * math.prod(shapes[1][PRODUCTS[kind] :])
        elif kind == MATMUL and shapes:
            data = operation.find("data")
            transposed = data is not None and data.get("transpose_a") == "true"
            yield name, math.prod(output) * shapes[0][-2 if transposed else -1]


def _shape(port: ElementTree.Element) -> tuple[int, ...]:
    sides = (int(side.text or 0) for side in port.iterfind("dim"))
    return tuple(1 if side < 0 else side for side in sides)
