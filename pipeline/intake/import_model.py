"""import: an ONNX file becomes a workspace, simplified and quantized as an export is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...exporters.weights.labels import read_labels
from ...exporters.weights.sources import FILE, Source
from ...runners.images import ordered
from ..errors import InputError, IntegrityError, UsageError, WorkspaceError
from ..progress import Progress
from ..quantization import recipes
from ..settings.load import load
from ..settings.making import DIGITS, ImportConfig, ImportRequest
from ..settings.options import pair, takes
from ..stages import samples
from ..stages.chain import halves, lowering, make, word_on_gpus
from ..stages.modelspec import ModelSpec, preprocessing_of
from ..stages.native import Native
from ..stages.quantize import EXACT_PAIRS, Given
from ..stages.simplify import Simplify
from ..stages.stage import Stage
from ..storage import onnx_models
from ..storage.manifest import Manifest
from ..storage.workspace import MANIFEST, Workspace
from . import declared_inputs, onnx_file
from .fixing import batch_of, fixed
from .onnx_file import OnnxFile
from .quantized import Quantization, quantization_of, troubles, troubles_of
from .repair import CanNotRepair
from .repairing import Repair, Repairs, repairs_of
from .taking_in import Import

FLOAT_TYPES = {"float16", "bfloat16", "float64"}


@takes(ImportRequest)
def import_model(request: ImportRequest) -> Manifest:
    """Take an ONNX file into a workspace; returns the workspace's manifest.

    A float file is simplified and, with samples to calibrate with, quantized as an export is. A
    quantized one is kept as the variant ``given``. ``file`` is its path, ``name`` what it is called
    in the workspace: the file's name. ``force`` makes everything again. The other keywords are
    the keys of ``[import]``. Raises what ``errors.EXIT_CODES`` lists; for int8 that can't be made
    once the rest is in the workspace, see ``chain.make``.
    """
    name = request.name or _name_of(request.file)
    config = load(request.flags(model=name))
    section, progress = config.import_, request.progress
    intake = Intake.of(onnx_file.read(request.file), section)
    beside = _manifest_beside(intake.answering)
    if beside:
        progress.say(f"warning: preprocessing and labels are those of {MANIFEST} beside the file")
        if (
            section.calibration is None
            and (beside.model["calibration"] or {}).get("from") == DIGITS
        ):
            section = section.model_copy(update={"calibration": Path(DIGITS)})
    repairs = _repairs(intake, progress) if section.repair else None
    spec = intake.spec(section, beside)
    int8 = _int8(section, intake.floats is not None)
    chosen = samples.choose(_with_samples(section, spec), spec, int8)
    for note in (*spec.notes, *chosen.notes):
        progress.say(f"warning: {note}")
    if not section.variants and intake.floats and not int8:
        progress.say(
            "warning: no int8: there is nothing to calibrate with; add --calibration DIR or "
            f"{'--data FILE.npz' if spec.inputs else f'--calibration {samples.SYNTHETIC}'}"
        )

    variants = (*int8, *halves(section.variants))
    if word := word_on_gpus(variants):
        progress.say(f"warning: {word}")

    def stages(native: Native) -> Sequence[Stage]:
        return _stages(intake, section, spec, chosen, variants, repairs, native)

    place = Workspace(config.workspace, config.model)
    return make(place, "edgepipe import", stages, request.force, progress)


@dataclass(frozen=True)
class Intake:
    """The files of an import with their open sizes settled; see ``taking_in.Import``."""

    floats: OnnxFile | None
    quantized: OnnxFile | None
    kind: Quantization | None
    batch: int | str

    @classmethod
    def of(cls, file: OnnxFile, section: ImportConfig) -> Intake:
        """Which file is which. Raises ``InputError`` and ``UsageError`` for what can't be used."""
        taken = _settled(file, section)
        batch = batch_of(taken, taken.inputs)
        kind = quantization_of(taken.model)
        if kind is None:
            if section.reference:
                raise UsageError(f"reference: {file.path} isn't quantized, it answers for itself")
            _check_floats(taken)
            return cls(taken, None, None, batch)
        if section.reference is None:
            if section.variants:
                raise UsageError(
                    f"variant: {file.path} is quantized ({kind.style}) and isn't quantized again; "
                    "--reference FILE names the float model behind it"
                )
            return cls(None, taken, kind, batch)
        floats = _settled(onnx_file.read(section.reference), section)
        if quantization_of(floats.model):
            raise UsageError(f"reference: {section.reference} is quantized itself")
        _check_floats(floats)
        for what in ("inputs", "outputs"):
            of_both = [
                [(one.name, one.dtype) for one in getattr(one_file, what)]
                for one_file in (taken, floats)
            ]
            if of_both[0] != of_both[1]:
                listed = " and ".join(
                    ", ".join(f"{name} {dtype}" for name, dtype in some) for some in of_both
                )
                raise InputError(f"{section.reference}: other {what} than {file.path}: {listed}")
        return cls(floats, taken, kind, batch)

    @property
    def answering(self) -> OnnxFile:
        """The file whose answers are the reference."""
        found = self.floats or self.quantized
        assert found
        return found

    def spec(self, section: ImportConfig, beside: Manifest | None) -> ModelSpec:
        """What the model is and how its inputs are made, which ``beside`` says if nothing else."""
        file = self.answering
        labels = read_labels(section.labels) if section.labels else beside and beside.labels
        digest = next(iter(file.digests.values()))
        known = dict(beside.preprocessing) if beside and beside.preprocessing else None
        source = Source(file.path.name, FILE, file.path, digest, True, None, labels, known)
        asked = None if section.channels is None else ordered(section.channels)[1]
        arrays = section.inputs or section.data
        seen = None if arrays else declared_inputs.of_images(file.inputs, asked)
        if seen is None:
            if asked and not arrays:
                listed = ", ".join(map(str, file.inputs))
                raise UsageError(f"channels: {file.path} takes no images of {asked}: {listed}")
            if labels:
                raise UsageError("labels: for a model that takes images")
            inputs, notes = declared_inputs.of_arrays(file, section)
            return ModelSpec(source, None, inputs, notes)
        preprocessing, notes = preprocessing_of(source, section, seen.size, seen.folded)
        name = file.inputs[0].name
        return ModelSpec(source, preprocessing, notes=notes, image_input=name)


def _manifest_beside(file: OnnxFile) -> Manifest | None:
    """The manifest of the workspace that a file is taken out of, if it is that very file."""
    folder = file.path.resolve().parent
    try:
        found = Workspace(folder.parent, folder.name).manifest()
    except (IntegrityError, WorkspaceError):
        return None
    name = file.path.name
    return found if found and found.digests.get(name) == file.digests[name] else None


def _settled(file: OnnxFile, section: ImportConfig) -> OnnxFile:
    """A file with the sizes and values that were said."""
    sizes = dict[str, int]()
    for name, text in map(pair, section.dims):
        if not re.fullmatch(r"[1-9]\d{0,8}", text):
            raise UsageError(f"dim: {name}={text}: a size is a whole number above 0")
        if sizes.setdefault(name, int(text)) != int(text):
            raise UsageError(f"dim: {name} is said twice, {sizes[name]} and {text}")
    values = dict(map(pair, section.values))
    model = fixed(file, sizes, values)
    if model is file.model:
        return file
    data = None if file.data is None else model.SerializeToString(deterministic=True)
    return replace(file, model=model, data=data)


def _check_floats(file: OnnxFile) -> None:
    """Raise ``InputError`` for a float file of another precision than the variant fp32 has."""
    weights = {
        onnx_file.dtype_of(tensor.data_type)
        for tensor in onnx_models.constants(file.model.graph)
        if len(tensor.dims) > 1
    }
    if other := weights & FLOAT_TYPES:
        raise InputError(
            f"{file.path}: its weights are {', '.join(sorted(other))}: a float32 file is needed"
        )


def _int8(section: ImportConfig, is_float: bool) -> tuple[str, ...]:
    """The int8 variants to make: those asked for, or all if there is something to calibrate."""
    if not is_float:
        return ()
    if section.variants:
        int8 = tuple(name for name in EXACT_PAIRS if name in section.variants)
        if int8 and not (section.calibration or section.data):
            raise UsageError(
                f"{', '.join(int8)}: nothing to calibrate with: add --calibration DIR, --data FILE "
                f"or --calibration {samples.SYNTHETIC} just to try"
            )
        return int8
    return tuple(EXACT_PAIRS) if section.calibration or section.data else ()


def _with_samples(section: ImportConfig, spec: ModelSpec) -> ImportConfig:
    """For choosing samples: arrays of nobody's are random."""
    if spec.inputs and section.calibration is None:
        return section.model_copy(update={"calibration": Path(samples.SYNTHETIC)})
    return section


def _stages(
    intake: Intake,
    section: ImportConfig,
    spec: ModelSpec,
    chosen: samples.Samples,
    variants: tuple[str, ...],
    repairs: Repairs | None,
    native: Native,
) -> list[Stage]:
    settled: Mapping[str, Any] = {"dims": list(section.dims), "values": list(section.values)}
    stages: list[Stage] = [
        Import(spec, chosen, intake.floats, intake.quantized, intake.kind, intake.batch, settled)
    ]
    if intake.floats:
        stages.append(Simplify(section.simplify, spec.preprocessing, native))
        steps = recipes.steps_of(section.recipe)
        stages += lowering(spec, chosen, intake.batch, variants, steps, native)
    if intake.quantized:
        known = list(troubles_of(intake.kind))
        stages.append(Given(spec.preprocessing, troubles=lambda _model: known))
    if repairs:
        stages.append(Repair(spec.preprocessing, troubles=troubles, repairs=repairs))
    return stages


def _repairs(intake: Intake, progress: Progress) -> Repairs | None:
    """What can be rewritten of a quantized file; why nothing is, is said."""
    if intake.quantized is None:
        raise UsageError(f"repair: {intake.answering.path} isn't quantized")
    try:
        if intake.quantized.data is None:
            raise CanNotRepair("it is over 2 GiB")
        found = repairs_of(intake.quantized.model, referenced=intake.floats is not None)
    except CanNotRepair as error:
        progress.say(f"warning: nothing is repaired: {error}")
        return None
    if found is None:
        pairs = "" if intake.floats else "; pairs between operators in float need --reference"
        progress.say(f"warning: nothing is repaired: there is nothing to rewrite{pairs}")
    return found


def _name_of(file: Path) -> str:
    """A file's name as that of a folder."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", file.stem).lstrip(".+-") or "model"
