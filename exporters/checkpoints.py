"""Checkpoints: a state dict in a file, what its metadata says, and loading it strictly.

They are only ever read as data: a pickle that holds anything but tensors is refused, never run.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import MissingLibrary, ModelError

if TYPE_CHECKING:
    import torch

# Where training scripts put the state dict when they save more than that.
NESTED = ("state_dict", "model", "model_state_dict")
# What DataParallel and torch.compile put before every name.
PREFIXES = ("module.", "_orig_mod.")
# The header's length, of which safetensors allows 100 MB; text has a larger one there.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says about itself; ``edgepipe train`` writes all of it.

    Everything is ``None`` in a file that says nothing.
    """

    architecture: str | None = None
    width: float | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None


def read_metadata(path: Path) -> Metadata:
    """The metadata of a ``.safetensors`` file; of any other file there is none.

    Does not read the weights. Raises ``ModelError`` for metadata that can't be understood.
    """
    if not _is_safetensors(_head(path)):
        return Metadata()
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[export]"') from error
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged safetensors file ({error})") from error
    try:
        labels = json.loads(texts["labels"]) if "labels" in texts else None
        preprocessing = json.loads(texts["preprocessing"]) if "preprocessing" in texts else None
        width = float(texts["width"]) if "width" in texts else None
        if labels is not None:
            labels = check_labels(labels)
        if not isinstance(preprocessing, dict | None):
            raise ValueError("preprocessing is to be an object")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its metadata can't be used: {error}") from error
    return Metadata(texts.get("architecture"), width, labels, preprocessing)


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels of a text file, one a line, in the order of the model's classes.

    Raises ``ModelError`` for a file that can't be read, is no UTF-8 or has an empty line in it.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: no UTF-8 text") from error
    while lines and not lines[-1].strip():
        lines.pop()
    try:
        return check_labels([line.strip() for line in lines])
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def check_labels(labels: Any) -> tuple[str, ...]:
    """Labels as they have to be. Raises ``ValueError`` that says what is wrong with them."""
    if not isinstance(labels, list) or not labels:
        raise ValueError("no labels in it")
    for number, label in enumerate(labels, 1):
        if not isinstance(label, str) or not label or not label.isprintable():
            raise ValueError(f"label {number} is {label!r}")
    return tuple(labels)


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from ``.safetensors`` or from torch's own format, as data only.

    Raises ``ModelError`` that says what the file is if it is something else: a TorchScript
    archive, an ONNX model, text, truncated, empty, or a pickle with code in it.
    """
    head = _head(path)
    if not head:
        raise ModelError(f"{path}: an empty file")
    if _is_safetensors(head):
        return _without_prefixes(_read_safetensors(path))
    if head.startswith(b"PK"):
        _check_archive(path)
    elif head[:1] != b"\x80":
        raise ModelError(f"{path}: {_kind(head)}, not a checkpoint (.safetensors, .pt, .pth)")
    return _without_prefixes(_read_torch(path))


def load_strictly(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load weights that fit the module exactly; ``ModelError`` lists what doesn't."""
    expected = module.state_dict()
    # Checkpoints older than this counter lack it, and inference never reads it.
    missing = [
        key for key in expected if key not in state and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the model has {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    problems = [
        f"{label}: {', '.join(found[:3])}" + (f" and {len(found) - 3} more" if found[3:] else "")
        for label, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", shapes),
        )
        if found
    ]
    if problems:
        raise ModelError(f"{path} does not fit {type(module).__name__}; {'; '.join(problems)}")
    module.load_state_dict({**expected, **state})


def classes_of(architecture: Any, state: Mapping[str, torch.Tensor], path: Path) -> int:
    """How many classes the weights are for, read from the layer whose size depends on it.

    ``architecture`` is a class that takes ``classes``. Raises ``ModelError`` for weights that
    have no such layer.
    """
    import torch

    with torch.device("meta"):
        few, many = (architecture(classes=classes).state_dict() for classes in (2, 3))
    for key, tensor in few.items():
        sizes = zip(tensor.shape, many[key].shape, strict=True)
        axis = next((axis for axis, (two, three) in enumerate(sizes) if two != three), None)
        if axis is None:
            continue
        if key in state and state[key].ndim == tensor.ndim:
            return int(state[key].shape[axis])
        break
    # Whatever it is, it says more about the weights than about their number of classes.
    load_strictly(architecture(classes=2), state, path)
    raise ModelError(f"{path}: no layer tells the number of classes")


def _without_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = list(state)
    for _ in PREFIXES:  # in either order
        for prefix in PREFIXES:
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged safetensors file ({error})") from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which is the file's business
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors, which could run code; it was not loaded. "
            "Save its state_dict() and use that"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, OSError… for damage
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path}: damaged or truncated checkpoint ({reason})") from error
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise ModelError(f"{path}: not a state dict (name -> tensor)")
    return content


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path}: a truncated archive") from error
    if any("/code/" in name for name in names) or any(
        name.endswith("constants.pkl") for name in names
    ):
        raise ModelError(f"{path}: a TorchScript archive, not a state dict: save state_dict()")
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelError(f"{path}: a zip archive that is no torch checkpoint")


def _kind(head: bytes) -> str:
    # An ONNX file is a protobuf whose first field is ir_version (field 1, varint).
    # What follows is another of ModelProto's fields: most often the producer or the graph.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a", b"\x42"):
        return "an ONNX model"
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return "an unknown binary file"
    return "a text file" if text.isprintable() or "\n" in text else "an unknown binary file"
