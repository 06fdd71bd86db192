"""The commands that make a report's results again, as one types them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ....exporters.own.arguments import shown
from ....exporters.own.torchscript import is_archive
from ....exporters.registry import ONNX
from ....exporters.weights.fitting import TOP
from ....exporters.weights.sources import CHECKPOINT, OWN
from ....exporters.weights.sources import FILE as IMPORTED
from ....runners.images import PRESETS, Preprocessing, spelled
from ....runners.timing.plan import SINGLE_STREAM
from ...judging.evaluate_result import CellAccuracy
from ...judging.parity_result import CellVerdict
from ...numerics.precision import EXACT, FOREIGN, GIVEN, REPAIRED
from ...profiling.profile_result import ProfiledCell, ProfileResult
from ...settings.making import SYNTHETIC
from ...speed.bench_result import CellResult
from ...speed.comparison.candidates import Speed
from ...speed.comparison.compare import CompareResult
from ...speed.tune import Tuned
from ...stages.modelspec import name_of
from ...storage.manifest import Manifest
from ..gather import Report

# ``Samples.origin`` of inputs of the user's, and how the names of edgepipe's own begin.
FOLDER, FILE, DATA, DIGITS = "folder", "file", "data", "digits"
FOLDING = "--fold-preprocessing"
Judged = CellResult | CellVerdict | CellAccuracy | Speed | ProfiledCell
Asked = TypeVar("Asked", Judged, Tuned)


def commands(report: Report) -> list[str]:
    """Export, then each command whose result is there, with every choice spelled out."""
    imported = report.manifest.model["weights"] == IMPORTED
    lines = [(_import if imported else _export)(report.manifest)]
    tuned = any(cell.tuned for cell in report.bench.cells) if report.bench else False
    lines += _tune(report) if tuned else []
    if report.bench:
        cells = report.bench.cells
        flags = [*_cells(cells), *_scenario(cells)]
        lines.append(_line("edgepipe bench", *flags, *(["--quick"] if report.bench.quick else [])))
    lines += _profile(report.profile) if report.profile else []
    if report.parity:
        samples = max((cell.samples for cell in report.parity.cells), default=0)
        counted = ["--samples", samples] if samples else []
        explain = ["--explain"] if report.explanation else []
        lines.append(_line("edgepipe parity", *_cells(report.parity.cells), *counted, *explain))
    if report.evaluation:
        drop = report.evaluation.max_drop
        gate = [] if drop is None else ["--max-drop", f"{drop:g}"]
        name = str(report.evaluation.data["name"])
        data = [] if name.startswith(DIGITS) else ["--data", name]
        flags = [*_cells(report.evaluation.cells), *data, *gate]
        lines.append(_line("edgepipe evaluate", *flags))
    lines += [] if tuned else _tune(report)
    lines += _compare(report.comparison) if report.comparison else []
    return [*lines, _line("edgepipe report", *_model(report.manifest.model))]


def placeholders(report: Report) -> list[str]:
    """What the results can't name of the commands: files of the user's, keys of a file."""
    manifest = report.manifest
    model, lines = manifest.model, []
    if _has_checkpoint(model):
        lines.append("CHECKPOINT is the file whose weights have the SHA-256 above.")
    if model["weights"] == OWN:
        lines.append("The module is code of the user's, imported from where export is run.")
    if model["weights"] == IMPORTED:
        lines.append(f"{model['architecture']} is the ONNX file that has the SHA-256 above.")
        if {GIVEN, EXACT} <= set(manifest.variants):
            lines.append("REFERENCE is the float model behind it.")
    if FILE in _origins(manifest):
        lines.append("SAMPLES is the .npz file that calibrated int8.")
    if DATA in _origins(manifest):
        lines.append("SAMPLES is the .npz file that calibrated int8 and gave the goldens.")
    if FOLDER in _origins(manifest):
        lines.append("IMAGES is the folder that calibrated int8 and gave the goldens.")
    if _labelled(manifest):
        lines.append("LABELS is the file that names the classes.")
    if _preprocessing(manifest) is None:
        table = manifest.made_by.removeprefix("edgepipe ")
        lines.append(f"How images are prepared was set key by key under [{table}].")
    if report.comparison and report.comparison.artifacts:
        lines.append("WORKSPACE is the folder that the compared models' folders are in.")
    return lines


def _export(manifest: Manifest) -> str:
    model = manifest.model
    flags: list[object] = []
    if model["name"] != name_of(model["architecture"]):
        flags += ["--name", model["name"]]
    if _has_checkpoint(model):
        key = (model["weights_from"] or {}).get("key", TOP)
        flags += ["--checkpoint", "CHECKPOINT"]
        flags += ["--checkpoint-key", key] if key != TOP else []
    elif model["weights"] != OWN:
        flags += ["--weights", model["weights"]]
    flags += ["--trust"] * is_archive(model["architecture"])
    flags += ["--labels", "LABELS"] * _labelled(manifest)
    flags += _repeated("--arg", shown(model.get("arguments") or {}))
    flags += _repeated("--input", model["named_inputs"])
    if not model["trained"]:
        flags += ["--classes", model["classes"]]
    if model.get("width") not in (None, 1):
        flags += ["--width", f"{model['width']:g}"]
    flags += _preprocessing(manifest) or []
    flags += _samples(manifest)
    flags += ["--exporter", model["exporter"], "--opset", model["opset"]]
    flags += ["--batch", model["batch"]]
    if model["input_size"]:
        flags += ["--input-size", spelled(model["input_size"])]
    if not model["simplify"]:
        flags.append("--no-simplify")
    flags += _repeated("--variant", manifest.variants)
    formats = {name for files in manifest.variants.values() for name in files}
    flags += _repeated("--format", sorted(formats - {ONNX, "pt2"}))
    return _line("edgepipe export", model["architecture"], *flags)


def _import(manifest: Manifest) -> str:
    model, variants = manifest.model, manifest.variants
    flags: list[object] = ["--name", model["name"]]
    flags += ["--reference", "REFERENCE"] * (GIVEN in variants and EXACT in variants)
    flags += ["--labels", "LABELS"] * _labelled(manifest)
    flags += _repeated("--dim", model["settled"]["dims"])
    flags += _repeated("--value", model["settled"]["values"])
    flags += _repeated("--input", model["named_inputs"])
    flags += [flag for flag in _preprocessing(manifest) or [] if flag != FOLDING]
    flags += ["--calibration", DIGITS] * (DIGITS in _origins(manifest))
    flags += _samples(manifest)
    flags += ["--no-simplify"] * (EXACT in variants and not model["simplify"])
    flags += ["--repair"] * (REPAIRED in variants)
    flags += _repeated("--variant", (name for name in variants if name not in FOREIGN))
    return _line("edgepipe import", model["architecture"], *flags)


def _samples(manifest: Manifest) -> list[object]:
    """Where goldens and what calibrates are from."""
    origins = _origins(manifest)
    flags: list[object] = ["--calibration", SYNTHETIC] * (SYNTHETIC in origins)
    flags += ["--calibration", "IMAGES"] * (FOLDER in origins)
    flags += ["--calibration", "SAMPLES"] * (FILE in origins)
    flags += ["--data", "SAMPLES"] * (DATA in origins)
    if count := (manifest.model.get("calibration") or {}).get("count"):
        flags += ["--calibration-images", count]
    return flags


def _has_checkpoint(model: Mapping[str, Any]) -> bool:
    """Whether the weights came out of a file of the user's."""
    return model["weights"] == CHECKPOINT or bool(model["weights"] == OWN and model["weights_from"])


def _labelled(manifest: Manifest) -> bool:
    """Whether the labels of a file or a module came beside it."""
    return bool(manifest.labels) and manifest.model["weights"] in (IMPORTED, OWN)


def _origins(manifest: Manifest) -> set[str]:
    """Where the inputs of the export are from: "digits", "folder", "file", "synthetic"."""
    chosen = (manifest.model.get("goldens"), manifest.model.get("calibration"))
    return {about["from"] for about in chosen if about}


def _preprocessing(manifest: Manifest) -> list[object] | None:
    """The flags for it; none if the weights bring it along, ``None`` if no preset is it."""
    if not manifest.preprocessing:
        return []
    own = manifest.model["own_preprocessing"]
    kept = Preprocessing.from_json(manifest.preprocessing)
    used = replace(kept, folded=False)
    folding: list[object] = [FOLDING] * kept.folded
    if own and Preprocessing.from_json(own).at(used.size) == used:
        return folding
    channels = len(used.mean) if used.bands else used.channels
    for name in PRESETS:
        if _preset(name, used, channels) == used:
            named = [] if channels == "rgb" else ["--channels", channels]
            return ["--preprocessing", name, *named, *folding]
    return None


def _preset(name: str, used: Preprocessing, channels: str | int) -> Preprocessing | None:
    """A preset at the size and for the channels that were used, if it is one for these."""
    try:
        return Preprocessing.preset(name, used.size, channels)
    except ValueError:
        return None


def _tune(report: Report) -> list[str]:
    """The search whose result is there; what won in an earlier one is not made again by it."""
    if report.tuning is None:
        return []
    named = _ran(report.tuning.cells)
    flags = _places(named)
    flags += _repeated(
        "--scenario", (cell.scenario for cell in named if cell.scenario != SINGLE_STREAM)
    )
    return [_line("edgepipe tune", *flags, "--budget", f"{report.tuning.budget:g}")]


def _profile(found: ProfileResult) -> list[str]:
    cell = found.cell
    flags = [*_places([cell]), *_repeated("--precision", filter(None, [cell.precision]))]
    flags += ["--threads", cell.threads] if cell.threads and not cell.tuned else []
    flags += ["--batch", cell.batch] if found.model["batch"] == "dynamic" else []
    flags += ["--quick"] * found.quick
    return [_line(ProfileResult.MADE_BY, *flags)]


def _compare(found: CompareResult) -> list[str]:
    flags = _cells(speed for row in found.models for speed in row.speeds)
    sizes = {row.input_size for row in found.models}
    if not found.artifacts and len(sizes) == 1:
        flags += ["--input-size", *map(spelled, filter(None, sizes))]
    if all(row.training_step_ms is None for row in found.models):
        flags.append("--no-training")
    flags += ["--convolutions"] * bool(found.convolutions)
    flags += ["--quick"] * found.quick
    flags += ["--workspace", "WORKSPACE"] * bool(found.artifacts)
    return [_line("edgepipe compare", *(row.model for row in found.models), *flags)]


def _cells(cells: Iterable[Judged]) -> list[object]:
    """What leads to the same cells: their runners, variants and so on."""
    named = _ran(cells)
    flags = _places(named)
    flags += _repeated("--precision", (cell.precision for cell in named if cell.precision))
    threads = {cell.threads for cell in named if cell.threads and not getattr(cell, "tuned", False)}
    return [*flags, "--threads", *threads] if len(threads) == 1 else flags


def _ran(cells: Iterable[Asked]) -> list[Asked]:
    """The cells that the machine has something for: another one could not be named again."""
    return [cell for cell in cells if cell.variant and cell.status != "unavailable"]


def _places(cells: Sequence[Judged | Tuned]) -> list[object]:
    flags = _repeated("--runner", (cell.runner for cell in cells))
    flags += _repeated("--variant", (cell.variant for cell in cells))
    return [*flags, *_repeated("--target", (cell.target for cell in cells))]


def _scenario(cells: Iterable[CellResult]) -> list[object]:
    measured = [cell for cell in cells if cell.status == "ok"]
    flags: list[object] = []
    if measured and measured[0].scenario != SINGLE_STREAM:
        flags += ["--scenario", measured[0].scenario]
        if measured[0].rate:
            flags += ["--rate", f"{measured[0].rate:g}"]
    if len({cell.batch for cell in measured}) > 1:
        flags += ["--batch", "sweep"]
    return flags


def _model(model: Mapping[str, Any]) -> list[object]:
    return ["--model", model["name"]]


def _repeated(flag: str, values: Iterable[object]) -> list[object]:
    return [part for value in dict.fromkeys(values) for part in (flag, value)]


def _line(command: str, *arguments: object) -> str:
    return " ".join([command, *(shlex.quote(str(argument)) for argument in arguments)])
