"""Which architecture and which weights: what can be said about them, and the module itself.

``resolve`` answers without importing torch, so that an up-to-date export stays cheap;
``build`` makes the ``nn.Module``.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import modules
from ..base import ModelError
from ..own import decomposed, fake_quantization, torchscript
from ..own.rounding import QDQ, Fixed
from ..zoo import ARCHITECTURES, WITH_WIDTH
from ..zoo.published import PUBLISHED
from . import checkpoints
from .checkpoints import read_states
from .fitting import Chosen, Expected, Origin, choose, load_strictly
from .labels import read_labels

if TYPE_CHECKING:
    import torch

DATA = Path(__file__).parents[1] / "data"
DIGITS_DATASET = DATA / "digits.npz"
RANDOM_SEED = 0
WEIGHTS = ("digits", "imagenet", "random")
# What ``Source.weights`` says of weights from a file of the user's, and of their own module's.
CHECKPOINT, OWN = "checkpoint", "own"
# Of an ONNX file that was imported.
FILE = "file"
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

    ``architecture`` is a key of ``ARCHITECTURES`` or, for a module of the user's own, a
    reference as ``modules.build`` takes it. ``weights`` is one of ``WEIGHTS``, ``CHECKPOINT`` or
    ``OWN``, ``digest`` the SHA-256 of the weights file (or says which seed made the weights; see
    ``modules.digest``). ``classes`` is ``None`` where only the outputs tell.
    ``preprocessing`` is what the weights were trained with, ``None`` if nothing says so.
    ``width`` is the width multiplier, ``None`` where the architecture has none. ``key`` is the
    dictionary of the file that was asked for, see ``fitting.choose``. ``arguments`` are what a
    module of the user's own is made with. One that is ``scripted`` is TorchScript; if it is an
    archive, ``path`` is that, and ``architecture`` its name. ``quantized`` says in which form it
    quantizes by itself, ``rounding.QDQ`` or not at all.
    """

    architecture: str
    weights: str
    path: Path | None
    digest: str
    trained: bool
    classes: int | None
    labels: tuple[str, ...] | None
    preprocessing: Mapping[str, Any] | None
    width: float | None = None
    key: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scripted: bool = False
    quantized: str | None = None


@dataclass(frozen=True)
class Built:
    """A module with its weights, and where in their file those were, if they are from one.

    Of one after a quantization-aware training ``fixed`` is what exporters take.
    """

    module: torch.nn.Module
    origin: Origin | None = None
    fixed: Fixed | None = None


def resolve(
    architecture: str,
    weights: str,
    width: float | None = None,
    classes: int | None = None,
    *,
    cache: Path,
) -> Source:
    """Find an architecture and its weights, downloading published ones into ``cache``.

    ``width`` is the width multiplier, 1 by default. ``classes`` is how many random weights tell
    apart, those of the digits by default. Raises ``ModelError`` for an unknown name, a failed
    download, or weights that this architecture does not have, in this width or with these classes.
    """
    _known("model", architecture, ARCHITECTURES)
    _known("weights", weights, WEIGHTS)
    _check_width(architecture, width)
    if weights != "random" and width not in (None, 1.0):
        raise ModelError(f"{weights} weights are of width 1: use --weights random")
    if weights != "random" and classes is not None:
        raise ModelError(f"{weights} weights have classes of their own: use --weights random")
    return _in_width(_source(architecture, weights, classes, cache), width)


def _check_width(architecture: str, width: float | None) -> None:
    if width is not None and architecture not in WITH_WIDTH:
        names = ", ".join(sorted(WITH_WIDTH))
        raise ModelError(f"{architecture} has no width multiplier; known with one: {names}")


def _in_width(source: Source, width: float | None) -> Source:
    return replace(source, width=width or 1.0) if source.architecture in WITH_WIDTH else source


def _source(architecture: str, weights: str, classes: int | None, cache: Path) -> Source:
    digits = tuple("0123456789")
    if weights == "digits":
        path = DATA / f"{architecture}-digits.safetensors"
        if not path.is_file():
            raise ModelError(
                f"{architecture} has no weights trained on digits: use another --weights"
            )
        return Source(architecture, weights, path, _sha256(path), True, len(digits), digits, HALVES)
    if weights == "imagenet":
        path = _published(architecture, cache)
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


def resolve_checkpoint(
    architecture: str,
    path: Path,
    labels: Path | None,
    width: float | None = None,
    key: str | None = None,
) -> Source:
    """Take the weights from a file: ``.safetensors``, or ``key`` of a ``.pt`` or ``.pth``.

    The number of classes is that of the labels, which ``build`` checks, or read from the weights;
    ``width`` the one that the file says it has, unless it is given here.
    Raises ``ModelError`` for an unknown architecture, for another one than the file says it is of,
    or a file that can't be used.
    """
    _known("model", architecture, ARCHITECTURES)
    metadata = checkpoints.read_metadata(path)
    if metadata.architecture not in (None, architecture):
        raise ModelError(f"{path}: weights of {metadata.architecture}, not of {architecture}")
    names = read_labels(labels) if labels else metadata.labels
    width = metadata.width if width is None else width
    _check_width(architecture, width)
    digest = _sha256(path)
    preprocessing, classes = metadata.preprocessing, len(names) if names else None
    source = Source(
        architecture, CHECKPOINT, path, digest, True, classes, names, preprocessing, width, key
    )
    if classes is None:
        source = replace(source, classes=choose_weights(source).classes)
    return _in_width(source, width)


def choose_weights(source: Source) -> Chosen:
    """What of a checkpoint fits an architecture of the zoo, with any number of classes.

    Raises ``ModelError`` if the file can't be read, or nothing in it fits.
    """
    assert source.path
    fresh = partial(construct, source.architecture, width=source.width)
    expected = Expected.with_any_classes(fresh)
    return choose(read_states(source.path), expected, source.path, source.key)


def resolve_module(
    reference: str,
    path: Path | None,
    labels: Path | None,
    key: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Source:
    """A module of the user's own, with ``path``'s weights if it is given. Runs their code.

    ``arguments`` are for what makes it. Raises ``ModelError`` where that fails or the weights
    don't fit.
    """
    names = read_labels(labels) if labels else None
    source = Source(reference, OWN, path, "", True, None, names, None, None, key, arguments or {})
    built = build(source)
    return replace(
        source,
        digest=modules.digest(built.module),
        scripted=torchscript.holds(built.module),
        quantized=QDQ if built.fixed else None,
    )


def resolve_archive(path: Path, labels: Path | None) -> Source:
    """A TorchScript archive. Runs nothing of it; raises ``ModelError`` if it is none."""
    torchscript.check(path)
    names = read_labels(labels) if labels else None
    return Source(path.name, OWN, path, _sha256(path), True, None, names, None, scripted=True)


def build(source: Source) -> Built:
    """The module in eval mode, float32, with the weights that ``source`` names.

    Raises ``ModelError`` if the checkpoint can't be read or does not fit the architecture.
    """
    import torch
    from torch import nn

    if torchscript.is_archive(source.architecture):
        assert source.path
        return Built(torchscript.load(source.path))
    if source.weights == OWN:
        module = modules.build(source.architecture, source.arguments)
        if source.path is None:
            return Built(module, fixed=_fixed(module, source.architecture))
        states = read_states(source.path)
        chosen = choose(states, Expected.of(module), source.path, source.key)
        load_strictly(module, chosen.state, source.path, chosen.origin)
        return Built(module, chosen.origin, _fixed(module, source.architecture))
    chosen = choose_weights(source) if source.path else None
    if chosen and chosen.classes != source.classes:
        raise ModelError(
            f"{source.path} has weights for {chosen.classes} classes, "
            f"the labels name {source.classes}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        assert source.classes is not None
        module = construct(source.architecture, source.classes, source.width)
        if chosen is None:
            from ..zoo.initial import settle

            settle(module)
    if chosen and source.path:
        load_strictly(module, chosen.state, source.path, chosen.origin)
    for part in module.modules():
        # In place saves memory in training only, and costs torch.onnx half of its time again.
        if isinstance(part, (nn.ReLU, nn.Hardtanh, nn.SiLU, nn.Hardswish)):
            part.inplace = False
    return Built(module.float().eval(), chosen.origin if chosen else None)


def _fixed(module: torch.nn.Module, reference: str) -> Fixed | None:
    """What exporters take of a module that quantizes by itself."""
    kind = next((one for one in (fake_quantization, decomposed) if one.holds(module)), None)
    try:
        return kind.fix(module) if kind else None
    except ModelError as error:
        raise ModelError(f"{reference}: {error}") from error


def construct(architecture: str, classes: int, width: float | None = None) -> torch.nn.Module:
    """An architecture of the zoo with fresh weights, from torch's generator and device.

    Raises ``ModelError`` for an unknown name.
    """
    _known("model", architecture, ARCHITECTURES)
    module_name, _, class_name = ARCHITECTURES[architecture].partition(":")
    options = {} if width is None else {"width": width}
    return getattr(import_module(module_name), class_name)(classes=classes, **options)


def _published(architecture: str, cache: Path) -> Path:
    """The cached file of published weights, downloaded and checked if it is not there yet."""
    name = IMAGENET_FILES.get(architecture)
    if name is None:
        raise ModelError(f"no published ImageNet weights are known for {architecture}")
    prefix = name.rpartition("-")[2].partition(".")[0]
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
