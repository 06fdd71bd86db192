"""Small bundles for tests: made of nothing, whole, and open to every kind of tampering."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgepipe.runners.bundles import archive
from edgepipe.runners.bundles.index import (
    GOLDENS,
    INDEX,
    BundleGate,
    Index,
    Member,
    Recommended,
    Variant,
)
from edgepipe.runners.images import Preprocessing

SIDE = 8
BLOCK = 512


def goldens(count: int = 4) -> bytes:
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    buffer = io.BytesIO()
    outputs = {"fp32.logits": np.eye(count, 10, dtype=np.float32), "fp64.logits": np.eye(count, 10)}
    np.savez(buffer, images=images, labels=np.arange(count), **outputs)
    return buffer.getvalue()


def member(data: bytes) -> Member:
    return Member(hashlib.sha256(data).hexdigest(), len(data))


def files() -> dict[str, bytes]:
    return {"fp32.onnx": onnx("fp32") * 100, "int8.onnx": onnx("int8") * 90, GOLDENS: goldens()}


def onnx(producer: str) -> bytes:
    """An ONNX file with an empty graph: IR version 10, who made it, and no node."""
    return b"\x08\x0a\x12" + bytes([len(producer)]) + producer.encode() + b"\x3a\x00"


def index(members: dict[str, bytes], **changes: Any) -> Index:
    """An index that agrees with ``members``, but for ``changes``."""
    fields: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "edgepipe": "0.1.0",
        "model": {},
        "preprocessing": Preprocessing(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "labels": tuple("0123456789"),
        "variants": {
            "fp32": Variant({"onnx": ("fp32.onnx",)}),
            "int8": Variant({"onnx": ("int8.onnx",)}, "exact-int8"),
        },
        "gates": (BundleGate("fp32", None, "f32", 90.0, 0.99, 0.85),),
        "recommended": (),
        "provenance": {},
        "evidence": {},
        "members": {name: member(data) for name, data in members.items()},
    }
    return Index(**{**fields, **changes})


def recommended(variant: str, runner: str, target: str = "local", **settings: Any) -> Recommended:
    return Recommended(variant, runner, target, "CPU", "f32", settings, {})


def contents(**changes: Any) -> dict[str, bytes]:
    """The members of a whole bundle, the index first."""
    members = files()
    return {INDEX: index(members, **changes).to_bytes(), **members}


def write(path: Path, members: dict[str, bytes]) -> Path:
    with path.open("w+b") as file:
        archive.write(file, members)
    return path


def pack(path: Path, blocks: Iterable[bytes]) -> Path:
    """An archive whose container is right, whatever the tar inside it is."""
    with path.open("w+b") as file:
        archive.pack(file, blocks)
    return path


def tar_entry(header: bytes, data: bytes = b"") -> bytes:
    return header + data + bytes(-len(data) % BLOCK)


def edited(text: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """An index with something else in it."""
    document = json.loads(text)
    change(document)
    return json.dumps(document).encode()
