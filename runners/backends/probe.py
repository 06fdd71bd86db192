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

from collections.abc import Mapping

import numpy as np

from .protobuf import field

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

    Encoded by hand, since a worker has no onnx library: the field numbers are those of
    onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto).
    """
    node = field(1, INPUT) + field(1, WEIGHTS) + field(2, OUTPUT) + field(4, "Conv")
    identity = np.eye(CHANNELS, dtype="<f4").tobytes()
    dimensions = b"".join(field(1, size) for size in (CHANNELS, CHANNELS, 1, 1))
    weights = dimensions + field(2, FLOAT) + field(8, WEIGHTS) + field(9, identity)
    graph = (
        field(1, node)
        + field(2, "probe")
        + field(5, weights)
        + field(11, _value(INPUT))
        + field(12, _value(OUTPUT))
    )
    return field(1, IR_VERSION) + field(7, graph) + field(8, field(2, OPSET))


def _value(name: str) -> bytes:
    """A ValueInfoProto: a float tensor of ``SHAPE``."""
    shape = b"".join(field(1, field(1, size)) for size in SHAPE)
    tensor = field(1, FLOAT) + field(2, shape)
    return field(1, name) + field(2, field(1, tensor))
