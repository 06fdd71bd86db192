"""Which architecture and which weights: what can be said about them, and the module itself.

``resolve`` answers without importing torch, so that an up-to-date export stays cheap;
``build`` makes the ``nn.Module``. Checkpoints are only ever read as data: a pickle that holds
anything but tensors is refused, never run.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import ModelError
from .zoo import ARCHITECTURES, WITH_WIDTH
from .zoo.published import PUBLISHED

if TYPE_CHECKING:
    import torch

DATA = Path(__file__).parent / "data"
DIGITS_DATASET = DATA / "digits.npz"
RANDOM_SEED = 0
WEIGHTS = ("digits", "imagenet", "random")
# Weights that come with real training images to calibrate int8 with.
CALIBRATED_WEIGHTS = frozenset({"digits", "random"})

# torchvision's published files; the hex digits in a name begin the SHA-256 of the file.
IMAGENET_URL = "https://download.pytorch.org/models/"
IMAGENET_FILES = {name: row.weights.file for name, row in PUBLISHED.items() if row.weights}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
DOWNLOAD_TIMEOUT_SECONDS = 30
MAX_DOWNLOAD_BYTES = 1 << 30

HALVES: Mapping[str, Any] = {
    "size": 224,
    "resize": "squash",
    "resize_to": None,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
# What torchvision's weights were trained with: mean and deviation of ImageNet's pixels.
IMAGENET: Mapping[str, Any] = {
    "resize": "shorter-side",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True)
class Source:
    """A model before it is exported.

    ``digest`` is the SHA-256 of the weights file (or says which seed made the weights).
    ``width`` is the width multiplier, ``None`` where the architecture has none.
    """

    architecture: str
    weights: str
    path: Path | None
    digest: str
    trained: bool
    classes: int
    labels: tuple[str, ...] | None
    preprocessing: Mapping[str, Any]
    width: float | None = None


def resolve(
    architecture: str, weights: str, width: float = 1.0, classes: int | None = None
) -> Source:
    """Find an architecture and its weights, downloading them if they are published ones.

    ``width`` is the width multiplier. ``classes`` is how many random weights tell apart, those
    of the digits by default. Raises ``ModelError`` for an unknown name, a failed download, or
    weights that this architecture does not have, in this width or number of classes.
    """
    _known("model", architecture, ARCHITECTURES)
    _known("weights", weights, WEIGHTS)
    has_width = architecture in WITH_WIDTH
    if width != 1.0 and not has_width:
        names = ", ".join(sorted(WITH_WIDTH))
        raise ModelError(f"{architecture} has no width multiplier; known with one: {names}")
    if width != 1.0 and weights != "random":
        raise ModelError(f"{weights} weights are of width 1: use --weights random")
    if classes is not None and weights != "random":
        raise ModelError(f"{weights} weights have classes of their own: use --weights random")
    source = _source(architecture, weights, classes)
    return replace(source, width=width) if has_width else source


def _source(architecture: str, weights: str, classes: int | None) -> Source:
    digits = tuple("0123456789")
    if weights == "digits":
        path = DATA / f"{architecture}-digits.safetensors"
        if not path.is_file():
            raise ModelError(
                f"{architecture} has no weights trained on digits: use another --weights"
            )
        return Source(architecture, weights, path, _sha256(path), True, len(digits), digits, HALVES)
    if weights == "imagenet":
        path = _published(architecture)
        preprocessing = _imagenet_preprocessing(architecture)
        return Source(architecture, weights, path, _sha256(path), True, 1000, None, preprocessing)
    count, labels = (len(digits), digits) if classes is None else (classes, None)
    seed = f"seed:{RANDOM_SEED}"
    return Source(architecture, weights, None, seed, False, count, labels, HALVES)


def _imagenet_preprocessing(architecture: str) -> Mapping[str, Any]:
    row = PUBLISHED[architecture]
    assert row.weights
    return {
        **IMAGENET,
        "size": row.input_size,
        "resize_to": row.weights.resize_to,
        "interpolation": row.weights.interpolation,
    }


def build(source: Source) -> torch.nn.Module:
    """The module in eval mode, float32, with the weights that ``source`` names.

    Raises ``ModelError`` if the checkpoint can't be read or does not fit the architecture.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        module = construct(source.architecture, source.classes, source.width)
        if source.path is None:
            from .zoo.initial import settle

            settle(module)
    if source.path is not None:
        load_strictly(module, load_state_dict(source.path), source.path)
    return module.float().eval()


def construct(architecture: str, classes: int, width: float | None = None) -> torch.nn.Module:
    """An architecture of the zoo with fresh weights, from torch's generator and device.

    Raises ``ModelError`` for an unknown name.
    """
    _known("model", architecture, ARCHITECTURES)
    module_name, _, class_name = ARCHITECTURES[architecture].partition(":")
    options = {} if width is None else {"width": width}
    return getattr(import_module(module_name), class_name)(classes=classes, **options)


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from ``.safetensors`` or from torch's own format, as data only.

    Raises ``ModelError`` that says what the file is if it is something else: a TorchScript
    archive, an ONNX model, text, truncated, empty, or a pickle with code in it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path}: an empty file")
    # The header's length, of which safetensors allows 100 MB; text has a larger one there.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        _check_archive(path)
    elif head[:1] != b"\x80":
        raise ModelError(f"{path}: {_kind(head)}, not a checkpoint (.safetensors, .pt, .pth)")
    return _read_torch(path)


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
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise ModelError(f"{path}: not a state dict (name -> tensor)")
    return {key.removeprefix("module."): value for key, value in content.items()}


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


def _published(architecture: str) -> Path:
    """The cached file of published weights, downloaded and checked if it is not there yet."""
    name = IMAGENET_FILES.get(architecture)
    if name is None:
        raise ModelError(f"no published ImageNet weights are known for {architecture}")
    prefix = name.rpartition("-")[2].partition(".")[0]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgepipe"
    path = cache / name
    if path.is_file() and _sha256(path).startswith(prefix):
        return path
    url = os.environ.get("EDGEPIPE_WEIGHTS_URL", IMAGENET_URL).rstrip("/") + "/" + name
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ModelError(f"{url}: weights are only fetched over https")
    # Beside the final name and renamed when checked: a killed download leaves no weights.
    partial = path.with_name(f"{name}.{os.getpid()}.partial")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        digest = _download(url, partial)
        if not digest.startswith(prefix):
            raise ModelError(
                f"{url}: the file has SHA-256 {digest[:8]}…, {prefix}… is published; not used"
            )
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelError(
            f"can't download {url}: {reason}. Without a network put the file at {path}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> str:
    digest, size = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response,  # noqa: S310
        path.open("wb") as file,
    ):
        while chunk := response.read(1 << 20):
            size += len(chunk)
            if size > MAX_DOWNLOAD_BYTES:
                raise ModelError(f"{url}: over {MAX_DOWNLOAD_BYTES >> 20} MiB; not used")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(what: str, name: str, names: Any) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, list(names), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise ModelError(f"unknown {what} {name!r}: {hint}")
