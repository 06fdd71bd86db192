r"""The wire format between a worker and its parent: a JSON line, then the bytes it announces.

    {"op": "run", ..., "blobs": [{"name": "input", "dtype": "float32", "shape": [1, 3, 224, 224],
     "bytes": 602112}]}\n<602112 bytes>

A blob with a dtype is an array (C order, native little endian), one without is a file, which is
never held in memory as a whole if it is sent from a path. Both sides use these functions, so a
model and its arrays travel over any pipe, SSH included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from ..base import (
    OutOfMemory,
    PlacementError,
    RunnerError,
    RunnerUnavailable,
    SessionError,
    StorageFull,
)

VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 4 << 30  # of the arrays of a message, which lie in memory
MAX_FILE_BYTES = 64 << 30  # of its files, which go from disk to disk
CHUNK_BYTES = 1 << 20
# Of sysexits.h, EX_IOERR and EX_OSERR: a worker that can't store, or hold, what it is sent.
FULL_STATUS, MEMORY_STATUS = 74, 71
NUMBERS = "biufc"  # numpy's kinds that are nothing but their bytes
REGISTERED = 2  # numpy.dtype.isbuiltin of a type that another package brought

# Replies that are none, in the order that an error is looked up: some are a SessionError, too.
REFUSALS: dict[str, type[RunnerError]] = {
    "unavailable": RunnerUnavailable,
    "misplaced": PlacementError,
    "memory": OutOfMemory,
    "full": StorageFull,
    "failed": SessionError,
}

Message = dict[str, Any]
Blobs = dict[str, "np.ndarray | bytes | Path"]


class ProtocolError(ValueError):
    """What came over the pipe is not a message of this protocol."""


def travels(dtype: np.dtype) -> bool:
    """Whether arrays of it can be sent: plain numbers, of a kind that numpy alone knows.

    Packages register others, some of which pass for floats (ml_dtypes' float8_e5m2); the other
    side may not have that package.
    """
    return dtype.kind in NUMBERS and dtype.isbuiltin != REGISTERED


def encode(message: Mapping[str, Any], blobs: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Yield the buffers of one message: the header line first, then each blob.

    What can't be sent raises ``ProtocolError`` before the header. A file that a ``Path`` names is
    read in chunks while it is sent; ``OSError`` if it can't be, or is cut short meanwhile.
    """
    entries, buffers = [], []
    for name, blob in (blobs or {}).items():
        buffer: Any
        if isinstance(blob, Path):
            entry = {"bytes": blob.stat().st_size}
            buffer = _chunks(blob, entry["bytes"])
        elif isinstance(blob, np.ndarray):
            if not travels(blob.dtype):
                raise ProtocolError(f"array {name!r} holds {blob.dtype}, not numbers")
            array = np.ascontiguousarray(blob, blob.dtype.newbyteorder("="))
            entry = {"dtype": array.dtype.name, "shape": list(blob.shape), "bytes": array.nbytes}
            buffer = [array.reshape(-1).view(np.uint8).data]
        else:
            entry, buffer = {"bytes": len(blob)}, [memoryview(blob)]
        entries.append({"name": name} | entry)
        buffers.append(buffer)
    header = json.dumps({**message, "blobs": entries}, allow_nan=True).encode()
    if len(header) >= MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(header)} bytes")
    _check_sizes(entries)
    yield memoryview(header + b"\n")
    for buffer in buffers:
        yield from buffer


def _chunks(path: Path, size: int) -> Iterator[memoryview]:
    with path.open("rb") as file:
        while size:
            chunk = file.read(min(CHUNK_BYTES, size))
            if not chunk:
                raise OSError(None, "is shorter than it was", str(path))
            size -= len(chunk)
            yield memoryview(chunk)


def _check_sizes(entries: Iterable[Mapping[str, Any]]) -> None:
    """Raise ``ProtocolError`` for more than a message may hold."""
    for kind, most in (("arrays", MAX_BODY_BYTES), ("files", MAX_FILE_BYTES)):
        total = sum(entry["bytes"] for entry in entries if ("dtype" in entry) == (kind == "arrays"))
        if total > most:
            raise ProtocolError(f"announces {total} bytes of {kind}, {most} at most")


def decode_header(line: bytes) -> tuple[Message, list[Message]]:
    """Parse a header line into the message and its blob entries, checking the sizes."""
    try:
        message = json.loads(line)
        entries = message.pop("blobs")
        for entry in entries:
            size = entry["bytes"]
            if not isinstance(entry["name"], str) or not isinstance(size, int) or size < 0:
                raise ProtocolError(f"blob entry {entry!r}")
            if "dtype" in entry:
                dtype, shape = np.dtype(entry["dtype"]), entry["shape"]
                whole = all(isinstance(length, int) and length >= 0 for length in shape)
                lies = not travels(dtype) or math.prod(shape) * dtype.itemsize != size
                if not whole or lies:
                    raise ProtocolError(f"blob entry {entry!r}")
    except ProtocolError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = line[:60].decode("utf-8", "replace").strip()
        raise ProtocolError(f"not a message: {shown!r}") from error
    _check_sizes(entries)
    return message, entries


def decode_blob(entry: Mapping[str, Any], data: bytearray) -> np.ndarray | bytes:
    """The array or the bytes that an entry of ``decode_header`` describes."""
    if "dtype" not in entry:
        return bytes(data)
    try:
        return np.frombuffer(data, entry["dtype"]).reshape(entry["shape"])
    except ValueError as error:  # more dimensions than numpy has, or an impossible one
        raise ProtocolError(f"blob entry {entry!r}") from error


def receive(reader: BufferedReader, entry: Message, path: Path) -> np.ndarray | Path:
    """An array, or a file in chunks to ``path``. Raises ``EOFError`` if the input ends before."""
    left = entry["bytes"]
    if "dtype" in entry:
        data = bytearray(left)
        if reader.readinto(data) != left:
            raise EOFError
        array = decode_blob(entry, data)
        assert isinstance(array, np.ndarray)
        return array
    with path.open("wb") as file:
        while left:
            chunk = reader.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise EOFError
            file.write(chunk)
            left -= len(chunk)
    return path
