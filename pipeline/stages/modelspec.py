"""What is exported, and under which name: from the configuration and what a checkpoint says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...exporters import modules
from ...exporters.own import arguments, torchscript
from ...exporters.weights import checkpoints
from ...exporters.weights.sources import (
    Source,
    resolve,
    resolve_archive,
    resolve_checkpoint,
    resolve_module,
)
from ...exporters.zoo import ARCHITECTURES
from ...runners.images import Preprocessing, Size, ordered, spelled
from ...runners.machine.files import cache_folder
from ..errors import InputError, UsageError
from ..settings.making import DEFAULT_MODEL, ExportConfig, InputsConfig
from ..settings.nearest import nearest
from ..storage.arrays import ArrayInput

DEFAULT_PRESET = "imagenet"
# What exporters call an image.
IMAGE_INPUT = "input"
PLAIN_PRESET = "none"  # of other channels than red, green and blue, which imagenet's figures are of


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is exported: its weights, and how images become its input.

    A model that takes no images has ``inputs`` instead of ``preprocessing``; of one that does
    ``image_input`` is what its input is called.
    """

    source: Source
    preprocessing: Preprocessing | None
    inputs: tuple[ArrayInput, ...] = ()
    notes: tuple[str, ...] = ()
    image_input: str = IMAGE_INPUT


def name_of(model: str) -> str:
    """What a model is called in the workspace: its architecture, or its reference's last part.

    An archive goes by its name, as far as the first dot.
    """
    if torchscript.is_archive(model):
        return Path(model).name.partition(".")[0]
    return re.split("[:.]", model)[-1] if modules.is_reference(model) else model


def is_own(architecture: str) -> bool:
    """Whether a model is code of the user's: a module, or an archive of one."""
    return modules.is_reference(architecture) or torchscript.is_archive(architecture)


def settle(export: ExportConfig, model: str, named: bool) -> tuple[ExportConfig, str]:
    """The section with its ``architecture`` filled in, and what the model is called.

    ``model`` is what it is to be called if it was ``named``, and may be an architecture. Raises
    ``UsageError`` for an architecture that isn't known.
    """
    architecture = export.architecture
    if architecture is None and export.checkpoint is not None:
        architecture = checkpoints.read_metadata(export.checkpoint).architecture
    if architecture is None:
        named_freely = model not in ARCHITECTURES and export.checkpoint is not None
        architecture = DEFAULT_MODEL if named_freely else model
    if architecture not in ARCHITECTURES and not is_own(architecture):
        raise UsageError(f"model: no {architecture!r}; {nearest(architecture, ARCHITECTURES)}")
    name = model if named else name_of(architecture)
    return export.model_copy(update={"architecture": architecture}), name


def specify(export: ExportConfig, say: Callable[[str], None]) -> ModelSpec:
    """Find the weights of a settled section, and what they were trained with.

    Raises ``ModelError`` for weights that can't be used, ``UsageError`` for options that
    exclude each other.
    """
    architecture = export.architecture
    assert architecture
    own, key = is_own(architecture), export.checkpoint_key
    given, inputs = _checked(export, own)
    if torchscript.is_archive(architecture):
        source = _trusted(Path(architecture), export)
    elif own:
        say(f"warning: {architecture} is code, and runs: only export what you trust")
        source = resolve_module(architecture, export.checkpoint, export.labels, key, given)
    elif export.checkpoint:
        source = resolve_checkpoint(
            architecture, export.checkpoint, export.labels, export.width, key
        )
    else:
        source = resolve(
            architecture, export.weights, export.width, export.classes, cache=cache_folder()
        )
    if inputs:
        return ModelSpec(source, None, inputs)
    preprocessing, notes = preprocessing_of(
        source, export, export.input_size, export.fold_preprocessing
    )
    return ModelSpec(source, preprocessing, notes=notes)


def _trusted(path: Path, export: ExportConfig) -> Source:
    """An archive whose code the user wants to run. Raises ``UsageError`` where that isn't said."""
    if export.checkpoint or export.args:
        raise UsageError(f"{path}: a TorchScript archive has its weights, and takes no arguments")
    source = resolve_archive(path, export.labels)
    if not export.trust:
        raise UsageError(
            f"{path}: a TorchScript archive is code, which exporting it runs: --trust, if you "
            "know where it comes from"
        )
    return source


def _checked(export: ExportConfig, own: bool) -> tuple[Mapping[str, Any], tuple[ArrayInput, ...]]:
    """The arguments and the inputs of a module of the user's ``own``.

    Raises ``UsageError`` for options that exclude each other.
    """
    if (own or export.checkpoint) and "weights" in export.model_fields_set:
        raise UsageError(f"weights: {export.weights} or the model's own, not both")
    if export.labels and not (own or export.checkpoint):
        raise UsageError("labels: they go with a --checkpoint or a module of your own")
    if export.checkpoint_key is not None and not export.checkpoint:
        raise UsageError("checkpoint-key: it goes with a --checkpoint")
    if export.classes is not None and (own or export.checkpoint):
        raise UsageError("classes: the model has its own")
    if export.width is not None and own:
        raise UsageError("width: for architectures of the zoo")
    if export.data and not export.inputs:
        raise UsageError("data: arrays are for a model that takes no images: add --input")
    if export.channels is not None and not own and ordered(export.channels)[1] != 3:
        raise UsageError("channels: the zoo's architectures take three")
    if export.inputs and not own:
        raise UsageError("inputs: only a module of your own takes others than images")
    if export.args and not own:
        raise UsageError("args: they go with a module of your own")
    if export.inputs and (export.fold_preprocessing or export.labels):
        raise UsageError("inputs: a model that takes no images has no preprocessing, no labels")
    if export.trust and not torchscript.is_archive(export.architecture or ""):
        raise UsageError("trust: it goes with a TorchScript archive")
    try:
        given = arguments.read(export.args)
    except ValueError as error:
        raise UsageError(f"args: {error}") from error
    inputs = tuple(ArrayInput.parse(text) for text in export.inputs)
    names = [one.name for one in inputs]
    if odd := [name for name in names if not all(map(str.isidentifier, name.split(".")))]:
        raise UsageError(f"inputs: {odd[0]} is no name that a module's input can have")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"inputs: {twice} is given twice")
    return given, inputs


def preprocessing_of(
    source: Source, config: InputsConfig, size: Size | None, folded: bool
) -> tuple[Preprocessing, tuple[str, ...]]:
    """What the configuration says, else what comes with the weights, else the usual.

    ``size`` is the input's in pixels, ``None`` for the usual one.
    """
    notes: tuple[str, ...] = ()
    given = {
        name: value
        for name in ("resize", "resize_to", "interpolation", "mean", "std")
        if (value := getattr(config, name)) is not None
    }
    if "resize" in given:
        given.setdefault("resize_to", None)
    order, count = ordered("rgb" if config.channels is None else config.channels)
    if config.preprocessing:
        base = _preset(config.preprocessing, config, given)
    elif source.preprocessing is not None:
        try:
            base = Preprocessing.from_json(source.preprocessing)
        except ValueError as error:
            raise InputError(f"{source.path}: its metadata can't be used: {error}") from error
        if source.trained and size not in (None, base.size):
            wanted = spelled(size or base.size)
            notes = (f"{wanted} pixels: the weights were trained at {spelled(base.size)}",)
    else:
        name = DEFAULT_PRESET if count == 3 else PLAIN_PRESET
        base = _preset(name, config, given)
        if config.mean is None:
            notes = (f"preprocessing {name}: nothing says what the weights were trained with",)
    if config.channels is not None:
        given["channels"] = order
    given["folded"] = folded
    try:
        return replace(base.at(size), **given), notes
    except ValueError as error:
        raise UsageError(f"{config.table}: {error}") from error


def _preset(name: str, config: InputsConfig, given: Mapping[str, Any]) -> Preprocessing:
    """A preset for the channels that were asked for, with mean and std where they were given."""
    channels = "rgb" if config.channels is None else config.channels
    own = {field: given[field] for field in ("mean", "std") if field in given}
    try:
        return Preprocessing.preset(name, channels=channels, **own)
    except ValueError as error:
        raise UsageError(f"export: {error}") from error
