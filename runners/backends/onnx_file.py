"""What a runner has to know of an ONNX file beforehand, read without the onnx library.

A worker has none. The field numbers are those of onnx.proto (ModelProto, GraphProto, NodeProto,
TensorProto, ValueInfoProto).
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from .protobuf import fields

FLOAT16 = 10
# Fields of onnx.proto that lead to the type of a constant.
GRAPH, INITIALIZER, DATA_TYPE = 7, 5, 2
# And to the operators, and to the shapes of the inputs.
NODE, OPERATOR = 1, 4
INPUTS, NAME, INITIALIZER_NAME, TYPE, TENSOR, TENSOR_SHAPE, DIMENSION, SIZE = (
    11,
    1,
    8,
    2,
    1,
    2,
    1,
    1,
)
QUANTIZED = (b"QuantizeLinear", b"DequantizeLinear")


def holds_half(model: Path) -> bool:
    """Whether an ONNX file has float16 constants. One that can't be read has none."""
    try:
        return FLOAT16 in _types(_mapped(model))
    except (ValueError, OSError):
        return False


def is_quantized(model: Path) -> bool:
    """Whether an ONNX file quantizes tensors (QDQ). One that can't be read doesn't."""
    try:
        return any(
            number == OPERATOR and value in QUANTIZED
            for graph in _inner(_mapped(model), GRAPH)
            for node in _inner(graph, NODE)
            for number, value in fields(node)
        )
    except (ValueError, OSError):
        return False


def inputs(model: Path) -> dict[str, tuple[int | None, ...]]:
    """The shapes of an ONNX file's inputs by name, ``None`` for a side that is open.

    Raises ``ValueError`` or ``OSError`` for a file that can't be read.
    """
    (graph,) = _inner(_mapped(model), GRAPH)
    constants = {
        bytes(n) for one in _inner(graph, INITIALIZER) for n in _inner(one, INITIALIZER_NAME)
    }
    return {
        bytes(name).decode(): _shape(value)
        for value in _inner(graph, INPUTS)
        for name in _inner(value, NAME)
        if bytes(name) not in constants
    }


def _shape(value: memoryview) -> tuple[int | None, ...]:
    """Of a ValueInfoProto."""
    return tuple(
        next(
            (size for number, size in fields(side) if number == SIZE and isinstance(size, int)),
            None,
        )
        for kind in _inner(value, TYPE)
        for tensor in _inner(kind, TENSOR)
        for shape in _inner(tensor, TENSOR_SHAPE)
        for side in _inner(shape, DIMENSION)
    )


def _mapped(model: Path) -> memoryview:
    """A file's contents, mapped: of the weights themselves nothing is to be read."""
    with model.open("rb") as file:
        return memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))


def _types(model: memoryview) -> set[int]:
    """The numbers of the constants' types."""
    return {
        value
        for graph in _inner(model, GRAPH)
        for tensor in _inner(graph, INITIALIZER)
        for number, value in fields(tensor)
        if number == DATA_TYPE and isinstance(value, int)
    }


def _inner(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value
