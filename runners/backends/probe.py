"""The precision a device really computes in, found by asking it for something only that one can do.

Some providers neither read back the precision that they were set to nor refuse one that they
don't have. The probe is a 1 x 1 convolution with the identity as its weights: what comes out is
what went in, rounded to the format that the convolution computes in. It is fed numbers that
survive in one format and not in the next:

    1 + 2^-7     in bf16 (7 bits of mantissa) and better
    1 + 2^-10    in f16 and tf32 (10 bits) and better
    1 + 2^-20    in f32 (23 bits)
    2^-26        where the exponent has 8 bits: not in f16, whose smallest number is 2^-24

The formats: IEEE 754-2019 (f32, f16), Intel's BFLOAT16 definition (2018), NVIDIA's TF32.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

CHANNELS = 16
INPUT, WEIGHTS, OUTPUT = "input", "weights", "output"
VALUES = (1 + 2.0**-7, 1 + 2.0**-10, 1 + 2.0**-20, 2.0**-26)
SHAPE = (1, CHANNELS, 2, 2)

# Which of ``VALUES`` survive, in their order.
FORMATS: dict[tuple[bool, ...], str] = {
    (True, True, True, True): "f32",
    (True, True, False, True): "tf32",
    (True, True, False, False): "f16",
    (True, False, False, True): "bf16",
}

# ONNX IR 8 and operator set 13: old enough for every runtime that is still around.
IR_VERSION, OPSET, FLOAT = 8, 13, 1


def feeds() -> dict[str, np.ndarray]:
    """The input: float32 ``[1, 16, 2, 2]``, one of ``VALUES`` in each pixel."""
    pixels = np.array(VALUES, np.float32).reshape(2, 2)
    return {INPUT: np.broadcast_to(pixels, SHAPE).copy()}


def precision(outputs: Mapping[str, np.ndarray]) -> str:
    """What the model's outputs on ``feeds`` say: "f32", "tf32", "f16", "bf16" or "unknown"."""
    same = (outputs[OUTPUT] == feeds()[INPUT]).reshape(CHANNELS, -1)
    survived = tuple(bool(value) for value in same.all(axis=0))
    return FORMATS.get(survived, "unknown")


def model() -> bytes:
    """The probe as an ONNX file.

    Encoded here, since a worker has no onnx library: the field numbers are those of
    onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto).
    """
    node = _field(1, INPUT) + _field(1, WEIGHTS) + _field(2, OUTPUT) + _field(4, "Conv")
    identity = np.eye(CHANNELS, dtype="<f4").tobytes()
    dimensions = b"".join(_field(1, size) for size in (CHANNELS, CHANNELS, 1, 1))
    weights = dimensions + _field(2, FLOAT) + _field(8, WEIGHTS) + _field(9, identity)
    graph = (
        _field(1, node)
        + _field(2, "probe")
        + _field(5, weights)
        + _field(11, _value(INPUT))
        + _field(12, _value(OUTPUT))
    )
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(2, OPSET))


def _value(name: str) -> bytes:
    """A ValueInfoProto: a float tensor of ``SHAPE``."""
    shape = b"".join(_field(1, _field(1, size)) for size in SHAPE)
    tensor = _field(1, FLOAT) + _field(2, shape)
    return _field(1, name) + _field(2, _field(1, tensor))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field. Numbers here are below 128, so that each is a varint of one byte."""
    if isinstance(value, int):
        return struct.pack("BB", number << 3, value)
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("B", number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
