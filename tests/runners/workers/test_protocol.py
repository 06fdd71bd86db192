"""The wire format: what goes in comes out the same, and anything else is a ``ProtocolError``."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgepipe.runners.workers import protocol
from edgepipe.runners.workers.protocol import ProtocolError

DTYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
)
GRID = np.arange(24, dtype=np.float32).reshape(4, 6)


def send(message: Mapping[str, Any], blobs: Mapping[str, Any]) -> bytes:
    """What one message looks like on the pipe."""
    return b"".join(bytes(buffer) for buffer in protocol.encode(message, blobs))


def receive(sent: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read one message as both ends do: the line, then the bytes it announces."""
    line, _, body = sent.partition(b"\n")
    message, entries = protocol.decode_header(line)
    blobs = {}
    for entry in entries:
        blobs[entry["name"]] = protocol.decode_blob(entry, bytearray(body[: entry["bytes"]]))
        body = body[entry["bytes"] :]
    assert not body
    return message, blobs


def announce(**entry: Any) -> bytes:
    """A header line with one blob entry: a float32 array of three, but for ``entry``."""
    valid = {"name": "input", "dtype": "float32", "shape": [3], "bytes": 12}
    return json.dumps({"op": "run", "blobs": [valid | entry]}).encode()


def decode(line: bytes) -> None:
    """Read a header line and as many zeros as it announces."""
    _, entries = protocol.decode_header(line)
    for entry in entries:
        blob = protocol.decode_blob(entry, bytearray(entry["bytes"]))
        size = blob.nbytes if isinstance(blob, np.ndarray) else len(blob)
        assert size == entry["bytes"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_a_tensor_comes_back_bit_for_bit(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (2, 3, 5)).astype(dtype)
    _, blobs = receive(send({}, {"input": values}))
    assert blobs["input"].dtype == dtype
    np.testing.assert_array_equal(blobs["input"], values)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.array(3.5, np.float32), id="0-d"),
        pytest.param(np.array(True), id="0-d bool"),
        pytest.param(np.zeros(0, np.float32), id="empty"),
        pytest.param(np.zeros((2, 0, 3), np.int64), id="empty in the middle"),
        pytest.param(GRID.T, id="transposed"),
        pytest.param(np.asfortranarray(GRID), id="column-major"),
        pytest.param(GRID[::2, ::-1], id="strided, reversed"),
        pytest.param(np.broadcast_to(GRID[0], (5, 6)), id="broadcast, read-only"),
        pytest.param(np.array([np.nan, np.inf, -0.0], np.float32), id="not finite"),
        pytest.param(np.arange(3, dtype=">f4"), id="big-endian"),
    ],
)
def test_shape_and_values_survive_any_memory_layout(values: np.ndarray) -> None:
    _, blobs = receive(send({}, {"input": values}))
    assert blobs["input"].shape == values.shape
    np.testing.assert_array_equal(blobs["input"], values)


def test_received_arrays_can_be_written_to() -> None:
    _, blobs = receive(send({}, {"input": np.broadcast_to(GRID[0], (5, 6))}))
    assert blobs["input"].flags.writeable


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n" * 3, bytes(range(256)) * 300])
def test_files_come_back_as_they_are(data: bytes) -> None:
    _, blobs = receive(send({}, {"model.onnx": data}))
    assert blobs == {"model.onnx": data}


def test_fields_files_and_arrays_travel_together_in_order() -> None:
    message = {"op": "load", "nested": {"threads": 2}, "deviation": np.inf, "none": None}
    blobs = {"model.onnx": b"\x08\n", "grid": GRID, "empty": b"", 'na\n"me é': np.array(1)}
    received, arrived = receive(send(message, blobs))
    assert received == message
    assert list(arrived) == list(blobs)
    assert arrived["model.onnx"] == b"\x08\n"
    np.testing.assert_array_equal(arrived["grid"], GRID)
    assert arrived['na\n"me é'] == 1


def test_a_message_without_blobs_is_one_line() -> None:
    sent = b"".join(protocol.encode({"op": "hello"}))
    assert sent.count(b"\n") == 1
    assert receive(sent) == ({"op": "hello"}, {})


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.array([object(), None]), id="object"),
        pytest.param(np.array(["cat", "dog"], object), id="strings as objects"),
        pytest.param(np.array(["cat", "dog"]), id="fixed-width strings"),
        pytest.param(np.zeros(2, [("x", "f4"), ("y", "i4")]), id="records"),
        pytest.param(np.zeros(2, ml_dtypes.float8_e5m2), id="a float that numpy doesn't know"),
        pytest.param(np.zeros(2, ml_dtypes.bfloat16), id="bfloat16"),
    ],
)
def test_arrays_that_are_not_numbers_are_refused_before_anything_is_sent(
    values: np.ndarray,
) -> None:
    with pytest.raises(ProtocolError):
        next(iter(protocol.encode({}, {"input": values})))


def test_a_header_over_the_limit_is_refused_by_the_sender() -> None:
    with pytest.raises(ProtocolError, match="header"):
        send({"reason": "x" * protocol.MAX_HEADER_BYTES}, {})
    receive(send({"reason": "x" * (protocol.MAX_HEADER_BYTES - 100)}, {}))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"Segmentation fault", id="text"),
        pytest.param(b"\xff\xfe\x00", id="not UTF-8"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"blobs"', id="string"),
        pytest.param(b"7", id="number"),
        pytest.param(b"{}", id="no blobs"),
        pytest.param(b'{"blobs": null}', id="blobs null"),
        pytest.param(b'{"blobs": 3}', id="blobs a number"),
        pytest.param(b'{"blobs": "abc"}', id="blobs a string"),
        pytest.param(b'{"blobs": {"a": 1}}', id="blobs an object"),
        pytest.param(b'{"blobs": [[]]}', id="entry a list"),
        pytest.param(b'{"blobs": [{}]}', id="entry empty"),
        pytest.param(b'{"blobs": []', id="truncated"),
        pytest.param(b'{"blobs": []} {"blobs": []}', id="two at once"),
        pytest.param(b"[" * 100_000, id="nested too deep"),
        pytest.param(b'{"blobs": ' + b"9" * 10_000 + b"}", id="endless number"),
    ],
)
def test_a_line_that_is_no_message_is_a_protocol_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_header(line)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"bytes": -12}, id="negative size"),
        pytest.param({"bytes": -12, "shape": [-3]}, id="negative size and shape"),
        pytest.param({"bytes": 13}, id="larger than its shape"),
        pytest.param({"bytes": 0}, id="smaller than its shape"),
        pytest.param({"bytes": 12.0}, id="size not whole"),
        pytest.param({"bytes": "12"}, id="size a string"),
        pytest.param({"bytes": None}, id="size null"),
        pytest.param({"shape": [-1, -3]}, id="negative dimensions that cancel out"),
        pytest.param({"shape": [-1, 0], "bytes": 0}, id="negative dimension of an empty array"),
        pytest.param({"shape": [1.5, 2]}, id="fractional dimension"),
        pytest.param({"shape": 3}, id="shape a number"),
        pytest.param({"shape": "3"}, id="shape a string"),
        pytest.param({"shape": [1] * 100, "bytes": 4}, id="100 dimensions"),
        pytest.param({"shape": [0, 10**30], "bytes": 0}, id="impossible dimension"),
        pytest.param({"dtype": "object", "shape": [1], "bytes": 8}, id="object dtype"),
        pytest.param({"dtype": "O", "shape": [1], "bytes": 8}, id="object dtype, short"),
        pytest.param({"dtype": "S", "shape": [1], "bytes": 0}, id="dtype without a size"),
        pytest.param({"dtype": "float33"}, id="unknown dtype"),
        pytest.param({"dtype": 7}, id="dtype a number"),
        pytest.param({"dtype": ["float32"]}, id="dtype a list"),
        pytest.param({"name": 3}, id="name a number"),
        pytest.param({"name": None}, id="name null"),
    ],
)
def test_an_entry_that_lies_is_a_protocol_error(entry: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(announce(**entry))


@pytest.mark.parametrize("size", [protocol.MAX_FILE_BYTES + 1, 10**15, 10**100])
def test_more_bytes_than_the_limit_are_refused_before_they_are_read(size: int) -> None:
    line = json.dumps({"blobs": [{"name": "model.onnx", "bytes": size}]}).encode()
    with pytest.raises(ProtocolError, match="announces"):
        protocol.decode_header(line)


@pytest.mark.parametrize(
    ("most", "kind"),
    [
        (protocol.MAX_FILE_BYTES, {}),
        (protocol.MAX_BODY_BYTES, {"dtype": "uint8", "shape": [protocol.MAX_BODY_BYTES // 2 + 1]}),
    ],
    ids=["files", "arrays"],
)
def test_the_limit_holds_for_the_sum_of_all_blobs(most: int, kind: dict[str, Any]) -> None:
    entries = [{"name": name, "bytes": most // 2 + 1, **kind} for name in ("a", "b")]
    with pytest.raises(ProtocolError, match="announces"):
        protocol.decode_header(json.dumps({"blobs": entries}).encode())


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_header_is_read_or_refused_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(1000):
        line = bytearray(announce())
        for _ in range(chance.randint(1, 3)):
            line[chance.randrange(len(line))] = chance.randrange(256)
        with suppress(ProtocolError):
            decode(bytes(line))
