"""An ONNX file as somebody handed it over: read once and whole, with what it says of itself."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runners.bundles.external import OUTSIDE, reaches_out
from ...runners.machine.files import sha256_file
from ..errors import InputError
from ..quantization.draft import DEFAULT_DOMAINS
from ..storage import onnx_models
from ..storage.onnx_models import constants, inner_graphs

# protobuf's own limit for one file.
MOST_BYTES = (1 << 31) - 1
# The keys that tell where a tensor's bytes are; onnx.proto3 knows no others.
EXTERNAL_KEYS = {"location", "offset", "length", "checksum", "basepath"}
# What an input or an output may be instead of a tensor; its ``dtype`` says so.
NO_TENSORS = frozenset({"sequence", "map", "optional", "sparse_tensor", "opaque", "unknown"})


@dataclass(frozen=True)
class Tensor:
    """An input or an output: ``shape`` holds numbers, names, or ``None`` for what isn't known.

    ``shape`` itself is ``None`` where not even the number of dimensions is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} {self.dtype} of unknown shape"
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} [{sides}]"


@dataclass(frozen=True)
class OnnxFile:
    """``model`` is an ONNX ``ModelProto`` with all its tensors; ``data`` is it as one file.

    ``data`` are the very bytes of the file if it keeps no tensors elsewhere and nothing of it was
    settled. It is ``None`` for a model of over 2 GiB, whose tensors stay where they are: see
    ``onnx_models``. ``digests`` are the SHA-256 of all files that it was read from, by name, its
    own first.
    """

    path: Path
    model: Any
    data: bytes | None
    digests: Mapping[str, str]

    def save(self, path: Path) -> tuple[Path, ...]:
        """Write it; returns its files."""
        if self.data is None:
            onnx_models.save(self.model, path)
        else:
            path.write_bytes(self.data)
        return onnx_models.files(path)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What has to be fed: files of old versions list their weights there as well."""
        known = {tensor.name for tensor in self.model.graph.initializer}
        return tuple(tensor_of(one) for one in self.model.graph.input if one.name not in known)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives."""
        return tuple(map(tensor_of, self.model.graph.output))

    @property
    def opsets(self) -> dict[str, int]:
        """The version of each operator set, the standard one as "ai.onnx"."""
        return {one.domain or "ai.onnx": one.version for one in self.model.opset_import}

    @property
    def operators(self) -> dict[str, int]:
        """How many nodes of each kind there are, the commonest first; "domain.Kind" of others."""
        return dict(Counter(map(kind_of, nodes(self.model.graph))).most_common())

    @property
    def parameters(self) -> int:
        """Numbers in constants of more than one dimension or value: weights and biases."""
        return sum(
            math.prod(tensor.dims)
            for tensor in constants(self.model.graph)
            if math.prod(tensor.dims) > 1
        )

    @property
    def producer(self) -> str:
        """What wrote it, by its own account."""
        return f"{self.model.producer_name} {self.model.producer_version}".strip()

    @property
    def metadata(self) -> dict[str, str]:
        """What its maker noted in it."""
        return {one.key: one.value for one in self.model.metadata_props}


def read(path: Path) -> OnnxFile:
    """Read a file and what it keeps in others. Raises ``InputError`` for what can't be trusted."""
    import onnx

    try:
        if not path.is_file():
            path.stat()
            raise InputError(f"{path}: not a file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{path}: {size} bytes, over protobuf's {MOST_BYTES} for one file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    problem = reaches_out(data)
    if problem and problem != OUTSIDE:
        raise InputError(f"{path}: {problem}")
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's own, whose class depends on its implementation
        raise InputError(f"{path}: is no ONNX file that can be read ({error})") from error
    if not model.graph.output:
        raise InputError(f"{path}: no model: its graph gives nothing")
    digests = {path.name: hashlib.sha256(data).hexdigest()}
    if problem:
        digests |= {name: sha256_file(path.parent / name) for name in _beside(path, model)}
        data = _gathered(path, model)
    _check(path, model)
    return OnnxFile(path, model, data, digests)


def _gathered(path: Path, model: Any) -> bytes | None:
    """Take what lies in other files into the model; ``None`` for more than one file can hold."""
    from onnx.external_data_helper import load_external_data_for_model

    if onnx_models.size(model) > onnx_models.MOST_BYTES:
        onnx_models.rooted(model, path.parent)
        return None
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx's own checks have several classes
        raise InputError(f"{path}: its external data can't be read: {error}") from error
    data = model.SerializeToString(deterministic=True)
    if problem := reaches_out(data):
        raise InputError(f"{path}: {problem}")
    return data


def tensor_of(value: Any) -> Tensor:
    """An input or output as the graph declares it; what is no tensor says so as its ``dtype``."""
    kind = value.type.WhichOneof("value") or "unknown"
    if kind != "tensor_type":
        return Tensor(value.name, kind.removesuffix("_type"), None)
    tensor = value.type.tensor_type
    dtype = dtype_of(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Tensor(value.name, dtype, None)
    return Tensor(value.name, dtype, tuple(map(_side, tensor.shape.dim)))


def dtype_of(kind: int) -> str:
    """A tensor's type by its number in ONNX."""
    import onnx

    if kind == onnx.TensorProto.STRING:
        return "string"
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(kind).name
    except (KeyError, ValueError, TypeError):
        return f"type {kind}"


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and all that are in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from graphs(inner)


def nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of inner graphs as well."""
    for one in graphs(graph):
        yield from one.node


def kind_of(node: Any) -> str:
    """An operator's name, with its domain where that isn't ONNX's own."""
    own = node.domain in DEFAULT_DOMAINS
    return node.op_type if own else f"{node.domain}.{node.op_type}"


def _side(dimension: Any) -> int | str | None:
    if dimension.HasField("dim_value") and dimension.dim_value >= 0:
        return int(dimension.dim_value)
    name = str(dimension.dim_param)
    # Some exporters write "?" and "-1" for what has no name.
    return name if re.match(r"[A-Za-z_]", name) else None


def _check(path: Path, model: Any) -> None:
    """Raise ``InputError`` for damage that protobuf doesn't mind."""
    from onnx import numpy_helper

    for node in nodes(model.graph):
        for name in (node.op_type, node.domain, node.name, *node.input, *node.output):
            # protobuf gives bytes where they are no UTF-8.
            if not isinstance(name, str):
                raise InputError(f"{path}: {name!r} in its graph is no text: the file is damaged")
    for tensor in constants(model.graph):
        if onnx_models.is_external(tensor):
            continue
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:  # of as many classes as there are ways to write a tensor
            raise InputError(
                f"{path}: constant {tensor.name} can't be read: {error}: the file is damaged"
            ) from error


def _beside(path: Path, model: Any) -> list[str]:
    """The files that tensors lie in: each a plain one in the same folder, with all the bytes.

    Raises ``InputError`` for anything else, before a byte of it is read.
    """
    import onnx

    found: dict[str, None] = {}
    for tensor in constants(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"{path}: tensor {tensor.name}"
        fields = {one.key: one.value for one in tensor.external_data}
        if len(fields) != len(tensor.external_data) or not EXTERNAL_KEYS.issuperset(fields):
            raise InputError(f"{where}: unknown or repeated fields of external data")
        name = fields.get("location", "")
        # A folder below would do for onnx; nobody writes one, and each is a place to hide a link.
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise InputError(f"{where}: its data is in {name!r}: only a file beside it is taken")
        file = path.parent / name
        if file.is_symlink() or not file.is_file() or file.stat().st_nlink > 1:
            raise InputError(f"{where}: its data is in {file}, which is no file, or a link")
        try:
            offset, length = (int(fields.get(key) or 0) for key in ("offset", "length"))
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: bad fields of external data ({error})") from error
        needed = math.prod(tensor.dims) * itemsize
        size = file.stat().st_size
        if min(offset, length, *tensor.dims, 0) < 0 or length not in (0, needed):
            raise InputError(f"{where}: {length} bytes of external data, {needed} expected")
        if offset + needed > size:
            raise InputError(f"{file}: {size} bytes, {offset + needed} needed by {tensor.name}")
        found[name] = None
    return list(found)
