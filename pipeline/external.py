"""ONNX files that keep tensors in other files: found without the onnx library, and refused.

An artifact is one file with one hash. A tensor that lies elsewhere would come from where nothing
vouches for it, or from where a path like ``../`` leads. What follows is as much of ONNX's
protobuf as it takes to visit every tensor (github.com/onnx/onnx, onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1
# Message -> its fields that lead to tensors, and which message each one holds.
SCHEMA: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def keeps_data_elsewhere(model: bytes) -> bool:
    """Whether any tensor of an ONNX model says that its data is in another file.

    What is no protobuf answers False: that is for the runner to refuse.
    """
    waiting = [("model", memoryview(model))]
    try:
        while waiting:
            kind, data = waiting.pop()
            for field, value in _fields(data):
                if kind == "tensor" and (
                    field == EXTERNAL_DATA or (field, value) == (DATA_LOCATION, EXTERNAL)
                ):
                    return True
                inner = SCHEMA.get(kind, {}).get(field)
                if inner and isinstance(value, memoryview):
                    waiting.append((inner, value))
    except ValueError:
        pass
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: number and value. Raises ``ValueError`` for damage."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        field, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(data, position)
            yield field, value
            continue
        if kind == BYTES:
            size, position = _varint(data, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(data) - position:
            raise ValueError("cut off")
        yield field, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("no end of a number")
