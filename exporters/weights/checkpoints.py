"""Checkpoints: the state dicts in a file, and what its metadata says.

They are only ever read as data: a pickle that holds more than plain values and
tensors is refused, never run.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import MissingLibrary, ModelError
from .fitting import State, dictionaries
from .labels import check_labels

if TYPE_CHECKING:
    import torch

# How torch names the type that it did not load.
UNSAFE = re.compile(r"GLOBAL ([\w.]{1,100}) was not an allowed")
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


def read_states(path: Path) -> dict[str, State]:
    """Every dictionary of name -> tensor in a file, by its dotted path; read as data only.

    The file is ``.safetensors``, which has one, or of torch's own format. Raises ``ModelError``
    that says what it is if it is something else: a TorchScript archive, an ONNX model, text,
    truncated, empty, or a pickle with code in it.
    """
    head = _head(path)
    if not head:
        raise ModelError(f"{path}: an empty file")
    if _is_safetensors(head):
        return dictionaries(_read_safetensors(path))
    if head.startswith(b"PK"):
        _check_archive(path)
    elif head[:1] != b"\x80":
        raise ModelError(f"{path}: {_kind(head)}, not a checkpoint (.safetensors, .pt, .pth)")
    states = dictionaries(_read_torch(path))
    if not states:
        raise ModelError(f"{path}: not a state dict (name -> tensor), and none in it")
    return states


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


def _read_torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which is the file's business
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = UNSAFE.search(str(error))
        held = f" ({named[1]})" if named else ""
        raise ModelError(
            f"{path}: holds more than tensors{held}, which could run code; it was not loaded. "
            "Save its state_dict() and use that"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, OSError… for damage
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path}: damaged or truncated checkpoint ({reason})") from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path}: a truncated archive") from error
    if any("/code/" in name for name in names) or any(
        name.endswith("constants.pkl") for name in names
    ):
        raise ModelError(
            f"{path}: a TorchScript archive, not a state dict: save state_dict(), or export the "
            "archive itself (edgepipe export FILE --trust)"
        )
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
