"""protobuf's wire format, read and written: as much of it as ONNX files need.

By hand, and the same whether the onnx library is there or not. A worker and a box have none, and
where it is there its parser is no judge of a file: it passes over what this refuses (groups, tags
of more than 32 bits), so that the verdict on a file would depend on what is installed.
Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
INT32 = (1 << 32) - 1  # readers keep that much of an enum and of a tag


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number and value. Raises ``ValueError`` for damage.

    Groups (wire types 3 and 4) are damage: ONNX has none, and a reader that skips them may go on
    in another place than this one.
    """
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if not number or key > INT32:
            raise ValueError(f"field {number}")
        if kind == VARINT:
            value, position = _varint(data, position)
            yield number, value & INT32
            continue
        if kind == BYTES:
            size, position = _varint(data, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if size > len(data) - position:
            raise ValueError("cut off")
        yield number, data[position : position + size]
        position += size


def field(number: int, value: int | str | bytes) -> bytes:
    """One field with its tag: a number as a varint, text and messages with their length."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | BYTES) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number, 0 or larger, in groups of seven bits, the lowest first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


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
