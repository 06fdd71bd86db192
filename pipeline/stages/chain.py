"""Which stages an export consists of, and what the manifest says about the result."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...exporters import registry
from ...exporters.complexity import Complexity
from ..errors import UsageError
from ..progress import Progress, Silent
from ..settings.load import Config
from ..storage import made_here
from ..storage.manifest import Manifest
from ..storage.workspace import Transaction, Workspace
from . import samples
from .export import PROGRAM, Export
from .formats import HALF, HALF_FORMATS, ExportFormat
from .modelspec import specify
from .quantize import REDUCED_RANGE, Calibrate, Quantize
from .simplify import FP32, Simplify
from .stage import Stage, run_stages, versions

# Images in one calibration run when the model leaves the batch open.
DYNAMIC_CALIBRATION_BATCH = 16
SILENT = Silent()
COSTS = tuple(cost.name for cost in fields(Complexity))
# What the manifest tells of a model as the export's result has it.
TOLD = (
    "weights_from",
    "classes",
    "inputs",
    "outputs",
    "named_inputs",
    "batch",
    "goldens",
    "exporter",
    "opset",
)


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
    made = {name: stage.result for name, stage in transaction.stages.items()}
    export, simplify, calibrate = made["export"], made["simplify"], made.get("calibrate")
    source = export["source"]
    variants: dict[str, dict[str, str]] = {"fp32": {"onnx": FP32, "pt2": PROGRAM}}
    variants |= {name: {"onnx": f"{name}.onnx"} for name in REDUCED_RANGE if name in made}
    for stage in transaction.stages.values():
        if variant := stage.result.get("variant"):
            variants.setdefault(variant, {})[stage.result["exporter"]] = stage.artifacts[0]
    return {
        "model": {
            "name": config.model,
            "architecture": source["architecture"],
            "width": source["width"],
            "weights": source["weights"],
            "weights_sha256": source["digest"],
            "trained": source["trained"],
            **{name: export[name] for name in (*COSTS, *TOLD)},
            "own_preprocessing": source["preprocessing"],
            "input_size": export["preprocessing"].get("size"),
            "calibration": calibrate["images"] if calibrate else None,
            "simplify": simplify["wanted"],
            "simplified": simplify["simplified"],
            "not_simplified_because": simplify["reason"],
        },
        "preprocessing": export["preprocessing"],
        "labels": tuple(source["labels"]) if source["labels"] else None,
        "variants": variants,
        "tools": versions(
            "edgepipe", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "numpy"
        ),
    }
