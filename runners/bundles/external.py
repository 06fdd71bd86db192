"""ONNX files that reach for other files: found with or without the onnx library, and refused.

An artifact is a file with a hash. A tensor that lies elsewhere would come from where nothing
vouches for it, or from where a path like ``../`` leads; so would a provider's compiled context.
A model of over 2 GiB has one such file, which is an artifact, too: that alone may be named. What
follows is as much of ONNX's protobuf as it takes to visit every tensor and node
(github.com/onnx/onnx, onnx.proto3). What it can't read it does not let pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..backends import protobuf

EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a tensor; the location is 0 for data in the file
KEY, VALUE = 1, 2  # of an entry of the former
OPERATOR, CONTEXT = 4, b"EPContext"  # of a node; com.microsoft's, which may name a file
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
GRAPH = 7
OUTSIDE = "keeps tensors in another file"
# protobuf's own limit; deeper messages are not read by anybody.
DEEPEST = 100


@dataclass(frozen=True)
class Beside:
    """The one file that a model's tensors may lie in, of ``size`` bytes."""

    name: str
    size: int


def reaches_out(model: memoryview | bytes, beside: Beside | None = None) -> str | None:
    """How an ONNX model reaches for another file, or why nobody can tell; ``None`` if it doesn't.

    It may for ``beside``. Every reader of protobuf is stricter or as strict: what is let pass here
    and refused there does no harm.
    """
    waiting = [("model", memoryview(model), 0)]
    graphs = 0
    try:
        while waiting:
            kind, data, depth = waiting.pop()
            if depth > DEEPEST:
                return f"is nested more than {DEEPEST} deep"
            for field, value in protobuf.fields(data):
                if kind == "tensor" and (
                    field == EXTERNAL_DATA or (field == DATA_LOCATION and value)
                ):
                    if beside is None:
                        return OUTSIDE
                    if field == EXTERNAL_DATA and (problem := _astray(value, beside)):
                        return problem
                if kind == "node" and field == OPERATOR and value == CONTEXT:
                    return "holds a provider's compiled context, which may be in another file"
                graphs += kind == "model" and field == GRAPH
                inner = SCHEMA.get(kind, {}).get(field)
                if inner and isinstance(value, memoryview):
                    waiting.append((inner, value, depth + 1))
    except ValueError as error:
        return f"is no ONNX file that can be read ({error})"
    return None if graphs else "is no ONNX file: it has no graph"


def _astray(entry: int | memoryview, beside: Beside) -> str | None:
    """What is wrong with a field of where a tensor lies, if anything."""
    if isinstance(entry, int):
        return "is no ONNX file that can be read (where a tensor lies)"
    found = dict(protobuf.fields(entry))
    parts = [found.get(number, b"") for number in (KEY, VALUE)]
    if any(isinstance(part, int) for part in parts) or len(found) > len(parts):
        return "is no ONNX file that can be read (where a tensor lies)"
    key, value = (bytes(part) for part in parts)  # pyright: ignore[reportArgumentType]
    if key == b"location":
        return None if value == beside.name.encode() else OUTSIDE
    if key in (b"offset", b"length") and value.isdigit() and int(value) <= beside.size:
        return None
    return f"keeps tensors where {beside.name} ends, or says where in an unknown way"
