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

A file whose tensors are float16 is computed as such, or with its tensors widened where a provider
has no kernels for them. So there is a second probe of float16 tensors: a convolution that adds 1 to
2048, which gives 2049 in f32 and has no place in the 11 bits of float16, and behind it one that
hands it on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .onnx_file import FLOAT16
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

# What the probe of float16 tensors says of 2048 + 1.
SUMS = {2049.0: "f32", 2048.0: "f16"}

# ONNX IR 8 and operator set 13: old enough for every runtime that is still around.
IR_VERSION, OPSET, FLOAT, INT = 8, 13, 1, 2


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
    nodes = field(1, _node("Conv", OUTPUT, INPUT, WEIGHTS))
    return _model(nodes + field(5, _weights(WEIGHTS, np.eye(CHANNELS, dtype="<f4"))))


def half_feeds() -> dict[str, np.ndarray]:
    """The input of ``half_model``: 2048 in the first channel, 1 in the second."""
    given = np.zeros(SHAPE, np.float32)
    given[:, 0], given[:, 1] = 2048, 1
    return {INPUT: given}


def half_precision(outputs: Mapping[str, np.ndarray]) -> str:
    """How float16 tensors are computed, of the outputs on ``half_feeds``: as ``precision``."""
    found = {SUMS.get(float(value), "unknown") for value in outputs[OUTPUT][:, 0].flat}
    return found.pop() if len(found) == 1 else "unknown"


def half_model() -> bytes:
    """The probe of float16 tensors as an ONNX file; its input and output are float32."""
    first_two = np.zeros((CHANNELS, CHANNELS), "<f2")
    first_two[:, :2] = 1
    nodes = (
        _node("Cast", "half", INPUT, to=FLOAT16),
        _node("Conv", "sum", "half", "two"),
        _node("Conv", "same", "sum", "identity"),
        _node("Cast", OUTPUT, "same", to=FLOAT),
    )
    constants = (_weights("two", first_two), _weights("identity", np.eye(CHANNELS, dtype="<f2")))
    return _model(
        b"".join(field(1, node) for node in nodes) + b"".join(field(5, one) for one in constants)
    )


def asked(session: Callable[[bytes], Any], *, half: bool) -> str:
    """The precision of ONNX Runtime's sessions, of which one is made of the probe and run.

    Of float32 tensors, or of float16 ones (``half``).
    """
    made = session(half_model() if half else model())
    (found,) = made.run(None, half_feeds() if half else feeds())
    return (half_precision if half else precision)({OUTPUT: found})


def _model(contents: bytes) -> bytes:
    """A ModelProto of nodes and constants between the probe's input and output."""
    graph = contents + field(2, "probe") + field(11, _value(INPUT)) + field(12, _value(OUTPUT))
    return field(1, IR_VERSION) + field(7, graph) + field(8, field(2, OPSET))


def _node(operator: str, output: str, *inputs: str, to: int | None = None) -> bytes:
    """A NodeProto, with the type that a Cast goes to."""
    attribute = b"" if to is None else field(1, "to") + field(3, to) + field(20, INT)
    named = field(5, attribute) if attribute else b""
    reads = b"".join(field(1, name) for name in inputs)
    return reads + field(2, output) + field(4, operator) + named


def _weights(name: str, matrix: np.ndarray) -> bytes:
    """A TensorProto: the weights of a 1 x 1 convolution."""
    kind = FLOAT16 if matrix.dtype == np.float16 else FLOAT
    dimensions = b"".join(field(1, size) for size in (CHANNELS, CHANNELS, 1, 1))
    return dimensions + field(2, kind) + field(8, name) + field(9, matrix.tobytes())


def _value(name: str) -> bytes:
    """A ValueInfoProto: a float tensor of ``SHAPE``."""
    shape = b"".join(field(1, field(1, size)) for size in SHAPE)
    tensor = field(1, FLOAT) + field(2, shape)
    return field(1, name) + field(2, field(1, tensor))
