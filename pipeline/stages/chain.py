"""Which stages an export consists of, and what the manifest says about the result."""

from __future__ import annotations

from typing import Any

from ...exporters.sources import CALIBRATED_WEIGHTS, resolve
from ..config import Config
from ..errors import UsageError
from ..workspace import Transaction
from . import Stage, versions
from .export import PROGRAM, Export
from .quantize import REDUCED_RANGE, Calibrate, Quantize
from .simplify import FP32, Simplify

# Images in one calibration run when the model leaves the batch open.
DYNAMIC_CALIBRATION_BATCH = 16


def stages_for(config: Config) -> list[Stage]:
    """Export and simplify, then calibrate and one quantize for each int8 variant asked for.

    Raises ``UsageError`` for int8 variants of weights that come without calibration images.
    """
    quantized = [name for name in REDUCED_RANGE if name in config.export.variants]
    if quantized and config.export.weights not in CALIBRATED_WEIGHTS:
        raise UsageError(
            f"{', '.join(quantized)} needs images to calibrate with, and none come with "
            f"{config.export.weights} weights: use --variant fp32"
        )
    source = resolve(config.model, config.export.weights)
    export = Export(source, config.export)
    preprocessing = export.preprocessing()
    stages: list[Stage] = [export, Simplify(config.export.simplify, preprocessing)]
    if quantized:
        batch = config.export.batch
        count = DYNAMIC_CALIBRATION_BATCH if batch == "dynamic" else int(batch)
        stages.append(Calibrate(preprocessing, count))
    return [*stages, *(Quantize(name) for name in quantized)]


def sections(transaction: Transaction, config: Config) -> dict[str, Any]:
    """The manifest's sections about the model, from what the stages recorded."""
    export = transaction.stages["export"]
    source = export.depends["source"]
    variants: dict[str, dict[str, str]] = {"fp32": {"onnx": FP32, "pt2": PROGRAM}}
    variants |= {
        name: {"onnx": f"{name}.onnx"} for name in REDUCED_RANGE if name in transaction.stages
    }
    return {
        "model": {
            "name": config.model,
            "architecture": source["architecture"],
            "weights": source["weights"],
            "weights_sha256": source["digest"],
            "trained": source["trained"],
            "parameters": export.result["parameters"],
            "classes": source["classes"],
            "batch": export.depends["batch"],
            "input_size": export.depends["preprocessing"]["size"],
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
