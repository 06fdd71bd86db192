"""ONNX models on the disk, of any size: over 2 GiB their tensors are in a file of their own.

protobuf can't hold more in one message. Such a model is a small ``NAME.onnx``, whose large tensors
lie in ``NAME.data`` beside it, and in memory it stays small as well: tensors name the place where
their values lie, and ``values`` maps it. So whatever copies, changes or serializes a graph does it
without its weights.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...exporters.onnx import MOST_BYTES
from ...runners.bundles.formats import DATA_ONLY, ONNX

MODEL, DATA = DATA_ONLY[ONNX]
# Smaller tensors stay in the model: shapes and axes, which decide what a graph is.
SMALL_BYTES = 1 << 10
# What a file can be mapped at, as ONNX's documentation of external data recommends.
ALIGNMENT = 4096
CHUNK_BYTES = 1 << 24


def load(path: Path) -> Any:
    """A ``ModelProto`` whose large tensors stay in the file beside it, see ``values``."""
    import onnx

    return rooted(onnx.load(path, load_external_data=False), path.parent)


def rooted(model: Any, folder: Path) -> Any:
    """The model, whose external tensors are files of the folder, with their paths in full.

    Small ones are read. What it names has to be there, and long enough.
    """
    for tensor in constants(model.graph):
        if is_external(tensor):
            fields = external_fields(tensor)
            set_external(tensor, {**fields, "location": str(folder / fields["location"])})
            if size_of(tensor) < SMALL_BYTES:
                embed(tensor)
    return model


def files(path: Path) -> tuple[Path, ...]:
    """A model's files: the model, and the one with its tensors if it has one."""
    beside = path.with_suffix(DATA)
    large = path.suffix == MODEL and beside.is_file()
    return (path, beside) if large else (path,)


def is_large(path: Path) -> bool:
    """Whether a model's tensors lie in a file beside it."""
    return len(files(path)) > 1


def save(model: Any, path: Path) -> None:
    """Write a model as one file if it fits, else with its tensors in a file beside it.

    Equal models give equal bytes. It may be read from the very files that it replaces; tensors that
    lie in the file beside it stay there as they are.
    """
    if size(model) <= MOST_BYTES:
        if holds_external(model):
            model = copy_of(model)
            for tensor in filter(is_external, constants(model.graph)):
                embed(tensor)
        _replace(path, model.SerializeToString(deterministic=True))
        return
    apart, beside = copy_of(model), path.with_suffix(DATA)
    large = [one for one in constants(apart.graph) if size_of(one) >= SMALL_BYTES]
    if all(is_external(one) and Path(external_fields(one)["location"]) == beside for one in large):
        for tensor in large:
            set_external(tensor, {**external_fields(tensor), "location": beside.name})
    else:
        _write_all(large, beside)
    _replace(path, apart.SerializeToString(deterministic=True))


def copy(source: Path, target: Path) -> None:
    """The same model under another name; one that is a single file keeps its very bytes."""
    if is_large(source):
        save(load(source), target)
    else:
        shutil.copyfile(source, target)


def beside_of(model: Any) -> tuple[bytes, Path | None]:
    """A model as bytes whose tensors elsewhere go by their files' names, and the folder of those.

    For who reads it from memory and is told where the others are. All have to be in one folder.
    """
    if not holds_external(model):
        return model.SerializeToString(), None
    named, folder = copy_of(model), None
    for tensor in constants(named.graph):
        if is_external(tensor):
            fields = external_fields(tensor)
            place = Path(fields["location"])
            folder = folder or place.parent
            assert folder == place.parent, "tensors in two folders"
            set_external(tensor, {**fields, "location": place.name})
    return named.SerializeToString(), folder


def size(model: Any) -> int:
    """Bytes of a model with all its tensors."""
    elsewhere = sum(size_of(tensor) for tensor in constants(model.graph) if is_external(tensor))
    return model.ByteSize() + elsewhere


def size_of(tensor: Any) -> int:
    """Bytes of a tensor's values; 0 for text."""
    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return math.prod(tensor.dims) * dtype.itemsize


def values(tensor: Any) -> np.ndarray:
    """A tensor's values, wherever they lie; of a file they are mapped, and read-only."""
    import onnx

    if not is_external(tensor):
        return onnx.numpy_helper.to_array(tensor)
    fields = external_fields(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset = int(fields.get("offset", 0))
    return np.memmap(fields["location"], dtype, "r", offset, tuple(tensor.dims))


def holds_external(model: Any) -> bool:
    """Whether any of a model's tensors lies in another file."""
    return any(map(is_external, constants(model.graph)))


def is_external(tensor: Any) -> bool:
    """Whether a tensor's values lie in another file."""
    import onnx

    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_fields(tensor: Any) -> dict[str, str]:
    """Where they lie: "location", "offset", "length"."""
    return {one.key: one.value for one in tensor.external_data}


def set_external(tensor: Any, fields: Mapping[str, Any]) -> None:
    """Say where they lie."""
    import onnx

    del tensor.external_data[:]
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def embed(tensor: Any) -> None:
    """Take the values of a tensor into the model."""
    data = values(tensor).tobytes()
    _clear(tensor)
    tensor.raw_data = data


def constants(graph: Any) -> Iterator[Any]:
    """All constant tensors, those of ``Constant`` nodes and of inner graphs as well."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in inner_graphs(node):
            yield from constants(inner)


def inner_graphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes: branches, and bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def copy_of(message: Any) -> Any:
    """A copy of a protocol buffer's message."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _clear(tensor: Any) -> None:
    """Leave a tensor's name, type and shape."""
    bare = type(tensor)(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.doc_string = tensor.doc_string
    tensor.CopyFrom(bare)


def _write_all(large: Iterable[Any], beside: Path) -> None:
    """Write the values of tensors one behind the other, and say so in each."""
    temporary = beside.with_name(f".{beside.name}.tmp")
    with temporary.open("wb") as file:
        for tensor in large:
            offset = _write(file, values(tensor))
            fields = {"location": beside.name, "offset": offset, "length": size_of(tensor)}
            _clear(tensor)
            set_external(tensor, fields)
    temporary.replace(beside)


def _write(file: BinaryIO, array: np.ndarray) -> int:
    """Append an array, bit by bit; returns where it begins."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset = file.tell()
    flat = array.reshape(-1)
    step = max(1, CHUNK_BYTES // array.itemsize)
    for start in range(0, flat.size, step):
        file.write(flat[start : start + step].tobytes())
    return offset


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
