"""Results as text for a terminal of 100 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from ...intake.inspection import Inspection
from ...judging.evaluate_result import EvaluationResult
from ...judging.parity_result import ParityResult
from ...judging.predict import Prediction, PredictResult
from ...machine.doctor import Diagnosis
from ...machine.inventory import Inventory
from ...numerics.metrics import ASSUMED
from ...settings import placement
from ...settings.making import SYNTHETIC
from ...storage.manifest import Manifest
from ..tables import columns
from ..tables.formatting import (
    ANSWERS_FOR_ITSELF,
    NONE,
    estimates,
    mebibytes,
    ms,
    row_name,
    shortened,
    text,
)
from ..tables.table import Column, Table, figure
from . import explanation, judged

IMAGE_WIDTH = 40
SHOWN_OPERATORS, MOST_OF_A_FACT = 8, 300
TWICE = (
    "file: the int8 file's own arithmetic against the reference; kernels: the runner against that"
)


def export_table(manifest: Manifest) -> str:
    """The variants that an export left in the workspace."""
    heads = (
        *map(Column, ("variant", "file")),
        figure("MiB"),
        Column("sha256"),
        Column("what it is", wraps=True),
    )
    rows = []
    for variant, files in manifest.variants.items():
        for name in (name for main in files.values() for name in manifest.files(main)):
            artifact = manifest.artifacts[name]
            about = _about(manifest, name) if name in files.values() else "belongs to it"
            size = mebibytes(artifact.size, ".2f")
            rows.append((variant, name, size, artifact.sha256[:12], about))
    parts: list[RenderableType] = [Table("", heads, tuple(rows)).text()]
    if (manifest.model["calibration"] or {}).get("from") == SYNTHETIC:
        parts.append("  int8 is calibrated on synthetic images: try it, don't ship it")
    return text(*parts)


def parity(result: ParityResult) -> str:
    """The table of a parity run, and below it what was explained."""
    return "\n".join([_parity_table(result), *map(explanation.text, result.explanations)])


def _parity_table(result: ParityResult) -> str:
    """The cells of a parity run with the reasons below it."""
    shown = judged.verdicts(result)
    parts: list[RenderableType] = [shown.text()] if shown.rows else []
    for cell in result.cells:
        if note := placement.spread(cell.placement, cell.provider or ""):
            parts.append(f"  {row_name(cell, result.cells)}: {note}")
    parts += [f"  {line}" for line in (*judged.reasons(result.cells), *result.problems)]
    more = (*estimates(result.hosts, result.cells), *judged.spread(result.cluster))
    parts += [f"  {line}" for line in more]
    parts.append(f"  the reference{_reference(result)}")
    if columns.FILE in shown.columns:
        parts.append(f"  {TWICE}")
    return text(*parts)


def _reference(result: ParityResult) -> str:
    """How exact the reference is, behind those words."""
    if result.reference_state == ASSUMED:
        if result.model.get("quantized"):
            return f" is {ANSWERS_FOR_ITSELF}"
        return "'s float32 has no float64 to be held against: the limit of f32 is assumed"
    sqnr_db = result.reference
    if math.isfinite(sqnr_db):
        return f"'s float32 is {sqnr_db:.1f} dB from its float64 on these goldens"
    said = "equals" if sqnr_db > 0 else "can't be compared with"
    return f"'s float32 {said} its float64 on these goldens"


def evaluation_table(result: EvaluationResult) -> str:
    """The cells of an evaluation with the reasons below it."""
    shown = judged.accuracies(result)
    parts: list[RenderableType] = [shown.text()] if shown.rows else []
    lines = [shown.caption, *judged.notes(result), *estimates(result.hosts, result.cells)]
    lines += judged.spread(result.cluster)
    if columns.FILE in shown.columns:
        lines.append(f"{TWICE} (SQNR in dB, on the goldens; parity judges it)")
    return text(*parts, *(f"  {line}" for line in lines))


def environments_table(environments: Sequence[Mapping[str, Any]]) -> str:
    """What ``environments.listing`` found, each with its lock below it."""
    if not environments:
        return "no environments"
    lines = []
    for found in environments:
        lines += [f"{found['runner']}  {found['state']}  {found['folder']}"]
        versions = (f"{name} {about['version']}" for name, about in found["packages"].items())
        lines += [f"  {', '.join(versions)}"] if found["packages"] else []
    return "\n".join(lines)


def runners_table(result: Inventory) -> str:
    """Every runner, and below the table why some can't run, or what to know of those that can."""
    heads = ("runner", "target", "status", "version", "devices", "takes", "precisions", "from")
    rows = []
    reasons: dict[str, list[str]] = {}
    for runner in result.runners:
        able = (runner.devices, runner.formats, runner.precisions)
        place = (runner.name, runner.target, runner.status, runner.version or NONE)
        known = (", ".join(one) or NONE for one in able)
        rows.append((*place, *known, runner.origin or "edgepipe"))
        if runner.reason:
            wanted = runner.install and runner.install not in runner.reason
            remedy = f"; {runner.install}" if wanted else ""
            reasons.setdefault(runner.reason + remedy, []).append(
                f"{runner.name} on {runner.target}"
            )
        elif runner.remark and runner.status == "ok":
            reasons.setdefault(runner.remark, []).append(f"{runner.name} on {runner.target}")
    shown = Table("", tuple(map(Column, heads)), tuple(rows)).text()
    return text(shown, *(f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()))


def diagnosis(result: Diagnosis) -> str:
    """One line for each finding, and one below it for what to do."""
    lines, where = [], ""
    for finding in result.findings:
        if finding.where != where:
            where = finding.where
            lines.append(f"{where}:")
        lines.append(f"  {finding.status:<8} {finding.check:<10} {finding.what}")
        if finding.remedy:
            lines.append(f"{'':<22}→ {finding.remedy}")
    return "\n".join(lines)


def inspection(result: Inspection) -> str:
    """A page about an ONNX file, what is wrong with it, and a line for each runner."""
    sets = ", ".join(f"{name} {version}" for name, version in result.opsets.items())
    operators = [f"{count} {name}" for name, count in result.operators.items()]
    more = len(operators) - SHOWN_OPERATORS
    listed = ", ".join(operators[:SHOWN_OPERATORS]) + (f" and {more} more kinds" * (more > 0))
    facts = [
        ("file", f"{result.file}, {mebibytes(result.size_bytes, '.2f')} MiB"),
        *(("SHA-256", f"{digest} {name}") for name, digest in result.files.items()),
        ("made by", f"{result.producer or 'unknown'}; IR {result.ir_version}, {sets}"),
        *(("input", str(one)) for one in result.inputs),
        *(("output", str(one)) for one in result.outputs),
        ("parameters", f"{result.parameters:,}"),
        ("operators", listed),
        ("quantized", str(result.quantization or "no")),
        *(("metadata", f"{key}: {value}") for key, value in result.metadata.items()),
    ]
    lines = [f"{name:<11} {_cut(value)}" for name, value in facts]
    if result.unsettled:
        lines.append(f"to settle: {result.unsettled}")
    lines += [f"{one.kind}: {one.text}" for one in result.findings]
    for one in result.runners:
        places = ", ".join(f"{count} nodes on {place}" for place, count in one.nodes.items())
        lines.append(
            f"{one.runner:<13} {f'takes it: {places}' if one.reason is None else one.reason}"
        )
    return text(*(f"  {line}" for line in lines))


def _cut(value: str) -> str:
    return value if len(value) <= MOST_OF_A_FACT else f"{value[:MOST_OF_A_FACT]}…"


def _about(manifest: Manifest, name: str) -> str:
    if name.endswith(".pt2"):
        return "torch.export program, for the torch runner"
    # A file that was taken in is judged by a stage of its own.
    stage = manifest.stage(name.removesuffix(".onnx")) or manifest.maker(name)
    return str(stage.result.get("summary", "")) if stage else ""


def predictions(result: PredictResult) -> str:
    """A line for each guess of the images that were read, and one for each that wasn't."""
    heads = (*map(Column, ("image", "label")), *map(figure, ("probability", "decode", "run")))
    rows = tuple(row for prediction in result.predictions for row in _rows(prediction))
    parts: list[RenderableType] = [Table("", heads, rows).text()] if rows else []
    parts += [
        f"  {prediction.error}" for prediction in result.predictions if prediction.error is not None
    ]
    place = "" if result.target == "local" else f" on {result.target}"
    parts.append(
        f"  {result.model['name']} {result.variant} / {result.runner}{place}, {result.precision}, "
        f"{result.threads} threads; times in ms, the first run's with what starts only then"
    )
    if result.isa:
        parts.append(
            f"  {result.target}: this CPU computing as an older one (oneDNN: {result.isa})"
        )
    if result.scores == "probabilities":
        parts.append("  the model gives probabilities itself: shown as they are")
    return text(*parts)


def _rows(prediction: Prediction) -> list[tuple[str, ...]]:
    rows = []
    for place, guess in enumerate(prediction.top):
        times = ["", ""]
        if place == 0:
            times = [ms(prediction.decode_ms or 0), ms(prediction.run_ms or 0)]
        name = shortened(prediction.image, IMAGE_WIDTH) if place == 0 else ""
        rows.append((name, guess.label, f"{guess.probability:.1%}", *times))
    return rows
