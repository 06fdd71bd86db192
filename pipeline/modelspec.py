"""What is exported, and under which name: from the configuration and what a checkpoint says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..exporters import checkpoints
from ..exporters.sources import Source, resolve, resolve_checkpoint
from ..exporters.zoo import ARCHITECTURES
from ..runners.images import Preprocessing
from .config import DEFAULT_MODEL, Config, ExportConfig, nearest
from .errors import InputError, UsageError

DEFAULT_PRESET = "imagenet"


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is exported: its weights, and how images become its input."""

    source: Source
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()


def settle(config: Config) -> Config:
    """The configuration of an export with ``model``, its name, and ``architecture`` filled in.

    Raises ``UsageError`` for an architecture that isn't known.
    """
    export, architecture = config.export, config.export.architecture
    if architecture is None and export.checkpoint is not None:
        architecture = checkpoints.read_metadata(export.checkpoint).architecture
    if architecture is None:
        named_freely = config.model not in ARCHITECTURES and export.checkpoint is not None
        architecture = DEFAULT_MODEL if named_freely else config.model
    if architecture not in ARCHITECTURES:
        raise UsageError(f"model: no {architecture!r}; {nearest(architecture, ARCHITECTURES)}")
    name = config.model if "model" in config.model_fields_set else architecture
    export = export.model_copy(update={"architecture": architecture})
    return config.model_copy(update={"model": name, "export": export})


def specify(config: Config) -> ModelSpec:
    """Find the weights of a settled configuration, and what they were trained with.

    Raises ``ModelError`` for weights that can't be used, ``UsageError`` for options that
    exclude each other.
    """
    export = config.export
    architecture = export.architecture or config.model
    if export.checkpoint is None:
        if export.labels is not None:
            raise UsageError("labels: they go with a --checkpoint")
        source = resolve(architecture, export.weights, export.width, export.classes)
    elif "weights" in export.model_fields_set:
        raise UsageError(f"weights: {export.weights} or a checkpoint, not both")
    else:
        if export.classes is not None:
            raise UsageError("classes: a checkpoint has its own")
        source = resolve_checkpoint(architecture, export.checkpoint, export.labels, export.width)
    return ModelSpec(source, *_preprocessing(source, export))


def _preprocessing(source: Source, config: ExportConfig) -> tuple[Preprocessing, tuple[str, ...]]:
    """What the configuration says, else what comes with the weights, else the usual."""
    notes: tuple[str, ...] = ()
    if config.preprocessing:
        base = Preprocessing.preset(config.preprocessing)
    elif source.preprocessing is not None:
        try:
            base = Preprocessing.from_json(source.preprocessing)
        except ValueError as error:
            raise InputError(f"{source.path}: its metadata can't be used: {error}") from error
    else:
        base = Preprocessing.preset(DEFAULT_PRESET)
        notes = (
            f"preprocessing {DEFAULT_PRESET}: nothing says what the weights were trained with",
        )
    given = {
        name: value
        for name in ("resize", "resize_to", "mean", "std", "channels")
        if (value := getattr(config, name)) is not None
    }
    if "resize" in given:
        given.setdefault("resize_to", None)
    try:
        return replace(base.at(config.input_size), **given), () if given else notes
    except ValueError as error:
        raise UsageError(f"export: {error}") from error
