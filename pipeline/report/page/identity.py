"""What model a report is about: what came in, from whom, as what, and what judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....runners.images import Preprocessing
from ...numerics.metrics import ASSUMED
from ...storage.manifest import IMPORT, Manifest
from ..tables import preparation
from ..tables.formatting import ANSWERS_FOR_ITSELF, source_of

LABELS_SHOWN = 12


def title(manifest: Manifest) -> str:
    """What stands above ``facts``."""
    return "What was imported" if manifest.made_by == IMPORT else "What was exported"


def lead(manifest: Manifest) -> str:
    """The model in a line."""
    model = manifest.model
    facts = [source_of(model)]
    if model["classes"] is not None:
        facts.append(f"{model['classes']} classes")
    if manifest.preprocessing:
        size = preparation.size_of(Preprocessing.from_json(manifest.preprocessing))
        facts.append(f"{size} pixels")
    return ", ".join(facts)


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What came in, from what, and how."""
    model, shape = manifest.model, manifest.preprocessing
    simplified = "yes" if model["simplified"] else f"no: {model['not_simplified_because']}"
    found = [
        *(_of_file(model) if manifest.made_by == IMPORT else _of_module(model)),
        *(_images(model["batch"], shape) if shape else [("Inputs", _inputs(model))]),
        ("Labels", _labels(model["classes"], manifest.labels)),
        ("Simplified", simplified),
        ("Variants", ", ".join(manifest.variants)),
    ]
    what = "images" if shape else "samples"
    for name, part in (("Calibrated on", "calibration"), ("Goldens", "goldens")):
        if about := model.get(part):
            found.append((name, f"{about['count']} {what}, {about['from']}"))
    reference = _reference(manifest)
    return [*found, ("Reference", reference)] if reference else found


def _of_module(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    trained = "" if model["trained"] else ", untrained"
    width = f" of width {model['width']:g}" if model.get("width") not in (None, 1) else ""
    return [
        ("Architecture", f"{model['architecture']}{width}, {model['parameters']:,} parameters"),
        ("Weights", f"{model['weights']}{trained}"),
        ("SHA-256 of the weights", str(model["weights_sha256"] or "none: they are random")),
        ("Exporter", f"{model['exporter']}, opset {model['opset']}"),
    ]


def _of_file(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    quantized = model.get("quantized")
    return [
        ("File", f"{model['architecture']}, {model['parameters']:,} parameters"),
        ("SHA-256 of the file", str(model["weights_sha256"])),
        ("Made by", f"{model['exporter']}, opset {model['opset']}"),
        *([("Quantized", quantized)] if quantized else []),
    ]


def _reference(manifest: Manifest) -> str | None:
    """Whose answers the others are held against, and how exact they are."""
    stage = manifest.stage("export") or manifest.stage("import")
    if stage is None:
        return None
    whose = "torch's float32"
    if manifest.made_by == IMPORT:
        if manifest.given_alone:
            return ANSWERS_FOR_ITSELF
        whose = "the float file's own float32, in ONNX Runtime with nothing optimized"
    distance = stage.result.get("reference_sqnr_db")
    if distance is not None:
        return f"{whose}; {distance:.1f} dB from its own float64"
    if stage.result.get("reference_state") == ASSUMED:
        return f"{whose}; {stage.result['reference']}"
    return None


def _images(batch: int | str, shape: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How an image becomes the input."""
    preprocessing = Preprocessing.from_json(shape)
    return [
        ("Input", f"{preparation.size_of(preprocessing)} pixels, batch {batch}"),
        ("Resize", preparation.resizing(preprocessing)),
        ("Normalization", preparation.normalization(preprocessing)),
        ("Fed as", preparation.tensor(preprocessing)),
    ]


def _inputs(model: Mapping[str, Any]) -> str:
    """The inputs of a model that takes no images."""
    inputs = (f"{one['name']} {one['dtype']} {one['shape']}" for one in model["inputs"])
    return f"{', '.join(inputs)}, batch {model['batch']}"


def _labels(classes: int | None, labels: Sequence[str] | None) -> str:
    if classes is None:
        return "none: no classifier"
    if not labels:
        return f"{classes}, without names"
    shown = ", ".join(labels[:LABELS_SHOWN])
    return f"{classes}: {shown}{', …' if len(labels) > LABELS_SHOWN else ''}"
