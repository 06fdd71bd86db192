"""Results as text for a terminal of 100 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from ...judging.evaluate_result import CellAccuracy, EvaluationResult
from ...judging.parity_result import CellVerdict, ParityResult
from ...judging.predict import Prediction, PredictResult
from ...machine.doctor import Diagnosis
from ...machine.inventory import Inventory
from ...settings import placement
from ...settings.making import SYNTHETIC
from ...storage.manifest import Manifest
from . import columns, explanation
from .formatting import MIB, apart, ms, row_name, table, text
from .table import Table

PLACE = (columns.VARIANT, columns.RUNNER, columns.TARGET, columns.PRECISION)
IMAGE_WIDTH = 40
TWICE_COLUMNS = (columns.FILE, columns.KERNELS)
TWICE = "file: the int8 file's own arithmetic against torch; kernels: the runner against that"


def export_table(manifest: Manifest) -> str:
    """The variants that an export left in the workspace."""
    shown = table("variant", "file", ">  MiB", "sha256", "what it is")
    for variant, files in manifest.variants.items():
        for name in (name for main in files.values() for name in manifest.files(main)):
            artifact = manifest.artifacts[name]
            about = _about(manifest, name) if name in files.values() else "belongs to it"
            size = f"{artifact.size / MIB:.2f}"
            shown.add_row(variant, name, size, artifact.sha256[:12], about)
    parts: list[RenderableType] = [shown]
    if (manifest.model["calibration"] or {}).get("from") == SYNTHETIC:
        parts.append("  int8 is calibrated on synthetic images: try it, don't ship it")
    return text(*parts)


def parity(result: ParityResult) -> str:
    """The table of a parity run, and below it what was explained."""
    return "\n".join([_parity_table(result), *map(explanation.text, result.explanations)])


def _parity_table(result: ParityResult) -> str:
    """The cells of a parity run with the reasons below it."""
    ran = [cell for cell in result.cells if cell.status == "ok"]
    twice = any(cell.file_max_abs is not None or cell.fault for cell in result.cells)
    shown = [*PLACE, columns.VERDICT, columns.SQNR, columns.LIMIT, *TWICE_COLUMNS[: 2 * twice]]
    shown += [columns.COSINE, columns.MAX_REL, columns.TOP1_AGREEMENT, columns.SAMPLES]
    parts: list[RenderableType] = [Table.of(shown, ran).text()] if ran else []
    for cell in result.cells:
        if note := placement.spread(cell.placement, cell.provider or ""):
            parts.append(f"  {row_name(cell, result.cells)}: {note}")
    parts += _reasons(result.cells)
    parts += _problems(result.problems)
    parts.append(f"  torch's float32 {_reference(result.reference)} on these goldens")
    if twice:
        parts.append(f"  {TWICE}")
    return text(*parts)


def _reference(sqnr_db: float) -> str:
    if math.isfinite(sqnr_db):
        return f"is {sqnr_db:.1f} dB from its float64"
    return "equals its float64" if sqnr_db > 0 else "can't be compared with its float64"


def evaluation_table(result: EvaluationResult) -> str:
    """The cells of an evaluation with the reasons below it."""
    ran = [cell for cell in result.cells if cell.status == "ok"]
    twice = any(cell.file_max_abs is not None for cell in result.cells)
    shown = [*PLACE, columns.ACCURACY_VERDICT, columns.TOP1, columns.TOP1_INTERVAL, columns.TOP5]
    shown += [columns.DROP, columns.DROP_INTERVAL, columns.P_VALUE, *TWICE_COLUMNS[: 2 * twice]]
    if all(cell.target == "local" for cell in ran):
        shown.remove(columns.TARGET)
    parts: list[RenderableType] = [Table.of(shown, ran).text()] if ran else []
    parts += _reasons(result.cells)
    data, reference = result.data, result.reference
    parts.append(
        f"  {data['images']} images of {data['classes']} classes: {data['name']}; "
        "drops in percentage points, positive where accuracy was lost"
    )
    if reference:
        place = f"{reference['variant']} on {reference['runner']} ({reference['target']})"
        limit = "no limit given (--max-drop)"
        if result.max_drop is not None:
            limit = f"at most {result.max_drop:g} points may be lost"
        parts.append(f"  compared with {place}; {limit}")
    if twice:
        parts.append(f"  {TWICE} (SQNR in dB, on the goldens; parity judges it)")
    parts += [f"  {note}" for note in result.notes]
    return text(*parts)


def _reasons(cells: Sequence[CellVerdict | CellAccuracy]) -> list[str]:
    """A line for each cell with something to say, and one for each runner that isn't there."""
    lines: dict[str, None] = {}
    for cell in cells:
        if cell.reason:
            state = "" if cell.status == "ok" else f"{cell.status}: "
            variant = "" if cell.status == "unavailable" else cell.variant
            place = "/".join(part for part in (variant, cell.runner, cell.target) if part)
            others = apart(cell, cells) if variant else {}
            others.pop("target", None)
            lines[f"  {' '.join((place, *others.values()))}: {state}{cell.reason}"] = None
    return list(lines)


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
    """Every runner, and below the table why some can't run and what to do about it."""
    columns = ("runner", "target", "status", "version", "devices", "takes", "precisions", "from")
    shown = table(*columns)
    reasons: dict[str, list[str]] = {}
    for runner in result.runners:
        shown.add_row(
            runner.name,
            runner.target,
            runner.status,
            runner.version or "–",
            *(", ".join(x) or "–" for x in (runner.devices, runner.formats, runner.precisions)),
            runner.origin or "edgepipe",
        )
        if runner.reason:
            wanted = runner.install and runner.install not in runner.reason
            remedy = f"; {runner.install}" if wanted else ""
            reasons.setdefault(runner.reason + remedy, []).append(
                f"{runner.name} on {runner.target}"
            )
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


def _problems(problems: Sequence[str]) -> list[str]:
    return [f"  {problem}" for problem in problems]


def _about(manifest: Manifest, name: str) -> str:
    if name.endswith(".pt2"):
        return "torch.export program, for the torch runner"
    stage = manifest.maker(name)
    return str(stage.result.get("summary", "")) if stage else ""


def predictions(result: PredictResult) -> str:
    """A line for each guess of the images that were read, and one for each that wasn't."""
    shown = table("image", "label", ">probability", ">decode", ">run")
    for prediction in result.predictions:
        for row in _rows(prediction):
            shown.add_row(*row)
    parts: list[RenderableType] = [shown] if shown.row_count else []
    parts += [
        f"  {prediction.error}" for prediction in result.predictions if prediction.error is not None
    ]
    place = "" if result.target == "local" else f" on {result.target}"
    parts.append(
        f"  {result.model['name']} {result.variant} / {result.runner}{place}, {result.precision}, "
        f"{result.threads} threads; times in ms, the first run's with what starts only then"
    )
    if result.scores == "probabilities":
        parts.append("  the model gives probabilities itself: shown as they are")
    return text(*parts)


def _rows(prediction: Prediction) -> list[list[str]]:
    rows = []
    for place, guess in enumerate(prediction.top):
        times = ["", ""]
        if place == 0:
            times = [ms(prediction.decode_ms or 0), ms(prediction.run_ms or 0)]
        name = prediction.image if place == 0 else ""
        if len(name) > IMAGE_WIDTH:
            name = "…" + name[1 - IMAGE_WIDTH :]
        rows.append([name, guess.label, f"{guess.probability:.1%}", *times])
    return rows
