"""Which stages an export consists of, and what the manifest says about the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ...exporters import registry
from ...exporters.base import ModelError
from ...exporters.complexity import Complexity
from ...exporters.onnx import OnnxDynamo, OnnxTorchScript
from ...runners import registry as runners
from ...runners.machine import host
from ...runners.machine.installed import versions
from ..errors import StageError, UsageError
from ..numerics.precision import FOREIGN, GIVEN, HALF
from ..progress import SILENT, Progress
from ..quantization import recipes
from ..settings.load import load
from ..settings.making import DEFAULT_MODEL, ExportConfig, ExportRequest
from ..settings.options import takes
from ..storage import made_here
from ..storage.manifest import Manifest
from ..storage.workspace import Transaction, Workspace
from . import samples
from .export import PROGRAM, Export
from .formats.exported import HALF_FORMATS, ExportFormat
from .formats.halve import Halve
from .modelspec import ModelSpec, is_own, name_of, settle, specify
from .native import Native
from .quantize import (
    EXACT_PAIRS,
    GIVEN_FILE,
    SEARCHED,
    SOURCES,
    Calibrate,
    Given,
    Quantize,
    calibration_batch,
)
from .samples import Samples
from .simplify import FP32, Simplify
from .stage import Stage, run_stages, up_to_date

# Those whose failure leaves a model without int8, and no worse.
INT8_STAGES = frozenset({Calibrate.name, *EXACT_PAIRS})
COSTS = tuple(cost.name for cost in fields(Complexity))
NOT_SIMPLIFIED = {"wanted": False, "simplified": False, "reason": "it came quantized"}
# Whose versions the manifest keeps; an import has no use for what exports a module.
TOOLS = ("edgepipe", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "numpy")
OF_IMPORT = tuple(name for name in TOOLS if name not in ("torch", "onnxscript"))
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
    "no_program_because",
    "quantized",
)


@takes(ExportRequest)
def export(request: ExportRequest) -> Manifest:
    """Export, simplify and quantize a model; returns the workspace's manifest.

    ``model`` is an architecture or "package.module:attribute", code of your own that is imported
    from the current folder. ``name`` is what it is called in the workspace: the same, or the
    attribute. ``force`` makes everything again, whatever is in the workspace. The other
    keywords are the keys of ``[export]``. Raises what ``errors.EXIT_CODES`` lists; for int8 that
    can't be made once the rest is in the workspace, see ``make``.
    """
    name = request.name or (request.model and name_of(request.model))
    config = load(request.flags(model=name))
    section, wanted = config.export, request.model
    if wanted:
        section = section.model_copy(update={"architecture": wanted})
    elif request.name and section.architecture is None and section.checkpoint is None:
        # A name is not what to export.
        section = section.model_copy(update={"architecture": DEFAULT_MODEL})
    section, model = settle(section, config.model, "model" in config.model_fields_set)
    place = Workspace(config.workspace, model)
    return make_settled(place, section, request.force, request.progress)


def make_settled(
    place: Workspace, section: ExportConfig, force: bool, progress: Progress
) -> Manifest:
    """Bring a model's folder up to what a settled section says; returns its manifest."""

    def stages(native: Native) -> Sequence[Stage]:
        return stages_for(section, native, progress)

    return make(place, "edgepipe export", stages, force, progress)


def make(
    place: Workspace,
    command: str,
    stages_of: Callable[[Native], Sequence[Stage]],
    force: bool,
    progress: Progress,
) -> Manifest:
    """Run the stages that are out of date in a model's folder; returns its manifest.

    int8 that can't be made costs the int8 alone: the error that says so is raised once the rest is
    in the folder. Where such an int8 has been before, everything stays as it was.
    """
    with place.locked(command, progress.say):
        before = Manifest() if force else place.manifest() or Manifest()
        if not force:
            place.check_unaltered(before)
        with Transaction(place, before) as transaction, Native() as native:
            stages = stages_of(native)
            failed = run_stages(stages, place, before, transaction, progress, INT8_STAGES)
            if lost := [name for name in failed if (place.folder / f"{name}.onnx").exists()]:
                kept = f"{place.folder} stays as it was, with its {', '.join(lost)}"
                raise _not_made(failed, f"{kept}; --variant fp32 makes the rest")
            _keep_searched(place, before, transaction)
            made = told(transaction, place.folder.name)
            if problem := made_here.note(made["variants"], transaction.written):
                progress.say(f"warning: {problem}")
            manifest = transaction.commit(**made)
    if failed:
        raise _not_made(failed, f"{place.folder} has {', '.join(manifest.variants)}")
    return manifest


def _not_made(failed: Mapping[str, Exception], instead: str) -> Exception:
    """The error that names the variants of stages that failed, why, and what there is."""
    variants = [name for name in failed if name in EXACT_PAIRS] or list(failed)
    reasons: dict[str, list[str]] = {}
    for name in variants:
        reasons.setdefault(str(failed[name]), []).append(name)
    told = [f"{', '.join(names)} not made: {reason}" for reason, names in reasons.items()]
    of_the_input = any(isinstance(error, ModelError) for error in failed.values())
    kind = ModelError if of_the_input else StageError
    return kind("; ".join((*told, instead)))


def _keep_searched(place: Workspace, before: Manifest, transaction: Transaction) -> None:
    """What ``quantize --search`` found stays as long as it is of this model, so calibrated."""
    made = {name for stage in transaction.stages.values() for name in stage.artifacts}
    if not made.issuperset(SOURCES):
        return
    sources = {name: transaction.artifact(name).sha256 for name in SOURCES}
    for record in before.stages:
        of_these = record.result.get(SEARCHED) == sources
        if of_these and (intact := up_to_date(record.name, record.key, place, before)):
            transaction.stages[record.name] = intact


def stages_for(section: ExportConfig, native: Native, progress: Progress = SILENT) -> list[Stage]:
    """Export and simplify, then calibrate and one stage for each further variant asked for.

    Raises ``UsageError`` for int8 variants of weights that come without calibration images.
    """
    quantized = tuple(name for name in EXACT_PAIRS if name in section.variants)
    steps = recipes.steps_of(section.recipe)
    # A module of the user's may turn out to be quantized, and need no samples.
    undecided = is_own(section.architecture or "") and "variants" not in section.model_fields_set
    if not undecided:
        samples.check(section, quantized)
    spec = specify(section, progress.say)
    section = _for_torchscript(section) if spec.source.scripted else section
    if spec.source.quantized:
        lower = (*quantized, *halves(section.variants))
        if lower and "variants" in section.model_fields_set:
            raise UsageError(
                f"{', '.join(lower)}: {section.architecture} is quantized already "
                f"({spec.source.quantized}), and is kept as it was trained: as {GIVEN}"
            )
        quantized = ()
    if undecided:
        samples.check(section, quantized)
    chosen = samples.choose(section, spec, quantized)
    for note in (*spec.notes, *chosen.notes):
        progress.say(f"warning: {note}")
    if registry.get(section.exporter).format != registry.ONNX:
        raise UsageError(f"exporter {section.exporter} writes no ONNX: ask for it with --format")
    first = Export(spec, section, chosen)
    simplified = GIVEN_FILE if spec.source.quantized else FP32
    stages: list[Stage] = [
        first,
        Simplify(section.simplify, spec.preprocessing, native, simplified),
        *_further_formats(first, section),
    ]
    if spec.source.quantized:
        return [*stages, Given(spec.preprocessing)]
    variants = (*quantized, *halves(section.variants))
    if word := word_on_gpus(variants):
        progress.say(f"warning: {word}")
    return stages + lowering(spec, chosen, section.batch, variants, steps, native)


def halves(variants: Sequence[str]) -> tuple[str, ...]:
    """fp16, if it is among them."""
    return (HALF,) if HALF in variants else ()


def word_on_gpus(variants: Sequence[str]) -> str | None:
    """What whoever makes int8 on a machine with an NVIDIA GPU has to know, if fp16 is not made."""
    if HALF in variants or not set(variants) & set(EXACT_PAIRS) or not host.cuda_devices():
        return None
    remark = runners.BUILT_IN["ort-cuda"].remark
    return f"a GPU is here, and int8 is for CPUs: on ort-cuda {remark} (--variant {HALF})"


def lowering(
    spec: ModelSpec,
    samples: Samples,
    batch: int | str,
    variants: Sequence[str],
    steps: tuple[str, ...],
    native: Native,
) -> list[Stage]:
    """Calibrate once if there is something to do it with, then make each int8 variant, and fp16."""
    method, count = recipes.method_of(steps), calibration_batch(batch)
    calibrate = Calibrate(spec.preprocessing, count, samples, native, method, spec.image_input)
    stages: list[Stage] = []
    if samples.calibration:
        int8 = [name for name in variants if name in EXACT_PAIRS]
        stages += [calibrate, *(Quantize(name, steps, calibrate) for name in int8)]
    return [*stages, Halve(calibrate)] if HALF in variants else stages


def _for_torchscript(section: ExportConfig) -> ExportConfig:
    """The section with the one exporter of torch's that takes TorchScript."""
    if section.exporter != OnnxDynamo.name:
        return section
    if "exporter" in section.model_fields_set:
        raise UsageError(
            f"exporter: {section.exporter} takes no TorchScript, {OnnxTorchScript.name} does"
        )
    return section.model_copy(update={"exporter": OnnxTorchScript.name})


def _further_formats(export: Export, section: ExportConfig) -> list[Stage]:
    """One stage for each format beside ONNX, and for the variant ``fp16`` those that have it."""
    stages: list[Stage] = []
    variant = GIVEN if export.spec.source.quantized else "fp32"
    formats = [name for name in dict.fromkeys(section.formats) if name != registry.ONNX]
    for name in formats:
        exporter = registry.get(name)
        if exporter.format == registry.ONNX:
            raise UsageError(f"{name} is no format but a way to ONNX: use --exporter {name}")
        stages.append(ExportFormat(export, exporter, variant))
        if HALF in section.variants and name in HALF_FORMATS:
            stages.append(ExportFormat(export, exporter, HALF))
    return stages


def told(transaction: Transaction, model: str) -> dict[str, Any]:
    """The manifest's sections about the model, from what the stages recorded."""
    made = {name: stage.result for name, stage in transaction.stages.items()}
    files = {name for stage in transaction.stages.values() for name in stage.artifacts}
    # An imported file stands for the export, and one that came quantized isn't simplified.
    export, calibrate = made.get("export") or made["import"], made.get("calibrate")
    simplify = made.get("simplify", NOT_SIMPLIFIED)
    source = export["source"]
    program = {"pt2": PROGRAM} if PROGRAM in files else {}
    variants: dict[str, dict[str, str]] = {}
    if FP32 in files:
        variants["fp32"] = {"onnx": FP32, **program}
    of_one_file = [name for name in (*FOREIGN, *EXACT_PAIRS) if f"{name}.onnx" in files]
    variants |= {name: {"onnx": f"{name}.onnx"} for name in of_one_file}
    if export["quantized"] and "fp32" not in variants:
        variants[GIVEN] |= program
    for stage in transaction.stages.values():
        if stage.result.get(SEARCHED):
            variants[stage.name] = {"onnx": stage.artifacts[0]}
        if variant := stage.result.get("variant"):
            variants.setdefault(variant, {})[stage.result["exporter"]] = stage.artifacts[0]
    return {
        "model": {
            "name": model,
            "architecture": source["architecture"],
            "width": source["width"],
            "arguments": source.get("arguments", {}),
            "weights": source["weights"],
            "weights_sha256": source["digest"],
            "trained": source["trained"],
            **{name: export[name] for name in (*COSTS, *TOLD)},
            "own_preprocessing": source["preprocessing"],
            "input_size": export["preprocessing"].get("size"),
            "calibration": calibrate["images"] if calibrate else None,
            **({"settled": export["settled"]} if "settled" in export else {}),
            "simplify": simplify["wanted"],
            "simplified": simplify["simplified"],
            "not_simplified_because": simplify["reason"],
        },
        "preprocessing": export["preprocessing"],
        "labels": tuple(source["labels"]) if source["labels"] else None,
        "variants": variants,
        "tools": versions(*(TOOLS if "export" in made else OF_IMPORT)),
    }
