"""Which stages an export consists of, and what the manifest says about the result."""

from __future__ import annotations

from typing import Any

from ...exporters import registry
from .. import made_here, samples
from ..config import Config
from ..errors import UsageError
from ..manifest import Manifest
from ..modelspec import specify
from ..progress import Progress, Silent
from ..workspace import Transaction, Workspace
from . import Stage, run_stages, versions
from .export import PROGRAM, Export
from .formats import HALF, HALF_FORMATS, ExportFormat
from .quantize import REDUCED_RANGE, Calibrate, Quantize
from .simplify import FP32, Simplify

# Images in one calibration run when the model leaves the batch open.
DYNAMIC_CALIBRATION_BATCH = 16
SILENT = Silent()


def make(config: Config, force: bool, progress: Progress) -> Manifest:
    """Bring the workspace of a settled configuration up to date; returns its manifest."""
    place = Workspace(config.workspace, config.model)
    with place.locked("edgepipe export", progress.say):
        before = Manifest() if force else place.manifest() or Manifest()
        if not force:
            place.check_unaltered(before)
        with Transaction(place, before) as transaction:
            stages = stages_for(config, progress)
            run_stages(stages, place, before, transaction, progress)
            made = sections(transaction, config)
            if problem := made_here.note(made["variants"], transaction.written):
                progress.say(f"warning: {problem}")
            return transaction.commit(**made)


def stages_for(config: Config, progress: Progress = SILENT) -> list[Stage]:
    """Export and simplify, then calibrate and one quantize for each int8 variant asked for.

    Raises ``UsageError`` for int8 variants of weights that come without calibration images.
    """
    quantized = tuple(name for name in REDUCED_RANGE if name in config.export.variants)
    samples.check(config, quantized)
    spec = specify(config, progress.say)
    chosen = samples.choose(config.export, spec, quantized)
    for note in (*spec.notes, *chosen.notes):
        progress.say(f"warning: {note}")
    if registry.get(config.export.exporter).format != registry.ONNX:
        raise UsageError(
            f"exporter {config.export.exporter} writes no ONNX: ask for it with --format"
        )
    export = Export(spec, config.export, chosen)
    stages: list[Stage] = [export, Simplify(config.export.simplify, spec.preprocessing)]
    stages += _further_formats(export, config)
    if chosen.calibration:
        batch = config.export.batch
        count = DYNAMIC_CALIBRATION_BATCH if batch == "dynamic" else int(batch)
        stages.append(Calibrate(spec.preprocessing, count, chosen))
    return [*stages, *(Quantize(name, spec.preprocessing) for name in quantized)]


def _further_formats(export: Export, config: Config) -> list[Stage]:
    """One stage for each format beside ONNX, and for the variant ``fp16`` those that have it."""
    stages: list[Stage] = []
    formats = [name for name in dict.fromkeys(config.export.formats) if name != registry.ONNX]
    for name in formats:
        exporter = registry.get(name)
        if exporter.format == registry.ONNX:
            raise UsageError(f"{name} is no format but a way to ONNX: use --exporter {name}")
        stages.append(ExportFormat(export, exporter))
        if HALF in config.export.variants and name in HALF_FORMATS:
            stages.append(ExportFormat(export, exporter, HALF))
    if HALF in config.export.variants and not set(formats) & set(HALF_FORMATS):
        raise UsageError(f"{HALF} needs a format for it: add --format {HALF_FORMATS[0]}")
    return stages


def sections(transaction: Transaction, config: Config) -> dict[str, Any]:
    """The manifest's sections about the model, from what the stages recorded."""
    export = transaction.stages["export"]
    source = export.depends["source"]
    calibrate = transaction.stages.get("calibrate")
    variants: dict[str, dict[str, str]] = {"fp32": {"onnx": FP32, "pt2": PROGRAM}}
    variants |= {
        name: {"onnx": f"{name}.onnx"} for name in REDUCED_RANGE if name in transaction.stages
    }
    for stage in transaction.stages.values():
        if variant := stage.depends.get("variant"):
            variants.setdefault(variant, {})[stage.depends["exporter"]] = stage.artifacts[0]
    return {
        "model": {
            "name": config.model,
            "architecture": source["architecture"],
            "width": source["width"],
            "weights": source["weights"],
            "weights_sha256": source["digest"],
            "weights_from": export.result["weights_from"],
            "trained": source["trained"],
            "parameters": export.result["parameters"],
            "classes": export.result["classes"],
            "inputs": export.result["inputs"],
            "outputs": export.result["outputs"],
            "batch": export.depends["batch"],
            "input_size": export.depends["preprocessing"].get("size"),
            "goldens": export.depends["goldens"],
            "calibration": calibrate.depends["images"] if calibrate else None,
            "simplified": transaction.stages["simplify"].result["simplified"],
            "not_simplified_because": transaction.stages["simplify"].result["reason"],
        },
        "preprocessing": export.depends["preprocessing"],
        "labels": source["labels"],
        "variants": variants,
        "tools": versions(
            "edgepipe", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "numpy"
        ),
    }
