"""Models that are one matrix product: what a runner makes of it is what it can make at most.

Encoded by hand, since a machine that benches needs no onnx library: the field numbers are those
of onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, AttributeProto).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...runners.backends.protobuf import field

FILE = "gemm.onnx"
MATMUL, CONV = "MatMul", "Conv"
# ONNX IR 8 and operator set 13: old enough for every runtime that is still around.
IR_VERSION, OPSET = 8, 13
TYPES = {"float32": 1, "uint8": 2, "int8": 3}
# Small products end before a busy machine interrupts them, large ones keep more threads
# busy: of several sides the fastest counts.
SIDES, LARGE_SIDES, MANY_THREADS = (256, 512, 1024), (512, 1024, 2048), 8
PIXELS_HIGH = 32
SCALE, OUTPUT_SCALE, ZERO_POINT = 0.01, 1.0, 128


@dataclass(frozen=True)
class Gemm:
    """``model`` computes ``macs`` multiply-accumulates on ``feeds``; ``shape`` says how."""

    model: bytes
    feeds: Mapping[str, np.ndarray]
    macs: int
    shape: str


def gemms(threads: int, *, int8: bool, quick: bool = False) -> Iterator[Gemm]:
    """Products of several sides, and one as a convolution, for so many threads.

    ``quick`` is one product, which is nearly as fast on a machine with nothing else to do.
    """
    sides = SIDES if threads <= MANY_THREADS else LARGE_SIDES
    if quick:
        yield gemm(MATMUL, sides[1], int8=int8)
        return
    for side in sides:
        yield gemm(MATMUL, side, int8=int8)
    yield gemm(CONV, sides[1], int8=int8)


def gemm(operator: str, side: int, *, int8: bool) -> Gemm:
    """``MATMUL`` of two square matrices, or ``CONV``, 1 x 1 with as many channels as pixels.

    With ``int8`` uint8 is multiplied with int8 weights between DequantizeLinear and
    QuantizeLinear, as export writes quantized layers; input and output are uint8, so that nothing
    is converted.
    """
    random = np.random.default_rng(0)
    sides = (side, side) if operator == MATMUL else (1, side, PIXELS_HIGH, side // PIXELS_HIGH)
    weights_shape = (side, side) if operator == MATMUL else (side, side, 1, 1)
    if int8:
        source = random.integers(0, 256, sides, np.uint8)
        weights = random.integers(-64, 64, weights_shape, np.int8)
    else:
        source = random.standard_normal(sides, np.float32)
        weights = random.standard_normal(weights_shape, np.float32)
    initializers = {"weights": weights}
    nodes = [_node(operator, ("input", "weights"), "output")]
    if int8:
        initializers |= {
            "scale": np.array(SCALE, np.float32),
            "output_scale": np.array(OUTPUT_SCALE, np.float32),
            "zero": np.array(ZERO_POINT, np.uint8),
            "weights_zero": np.array(0, np.int8),
        }
        nodes = [
            _node("DequantizeLinear", ("input", "scale", "zero"), "input_float"),
            _node("DequantizeLinear", ("weights", "scale", "weights_zero"), "weights_float"),
            _node(operator, ("input_float", "weights_float"), "output_float"),
            _node("QuantizeLinear", ("output_float", "output_scale", "zero"), "output"),
        ]
    kind = str(source.dtype)
    graph = (
        *(field(1, node) for node in nodes),
        field(2, "gemm"),
        *(field(5, _tensor(name, array)) for name, array in initializers.items()),
        field(11, _value("input", kind, sides)),
        field(12, _value("output", kind, sides)),
    )
    opset = field(8, field(2, OPSET))
    model = field(1, IR_VERSION) + field(7, b"".join(graph)) + opset
    name = "matrix product" if operator == MATMUL else "1 × 1 convolution"
    return Gemm(model, {"input": source}, side**3, f"{name}, {side} × {side} × {side}")


def _node(operator: str, inputs: Iterable[str], output: str) -> bytes:
    names = b"".join(field(1, name) for name in inputs)
    return names + field(2, output) + field(3, output) + field(4, operator)


def _tensor(name: str, array: np.ndarray) -> bytes:
    """A TensorProto with its data raw, little endian as ONNX has it."""
    dimensions = b"".join(field(1, side) for side in array.shape)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return dimensions + field(2, TYPES[str(array.dtype)]) + field(8, name) + field(9, data)


def _value(name: str, kind: str, shape: Iterable[int]) -> bytes:
    sides = b"".join(field(1, field(1, side)) for side in shape)
    tensor = field(1, TYPES[kind]) + field(2, sides)
    return field(1, name) + field(2, field(1, tensor))
