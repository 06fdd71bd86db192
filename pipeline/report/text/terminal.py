"""Results as text for a terminal of 100 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from ...judging.accuracies import CellAccuracy, EvaluationResult
from ...judging.judged import CellVerdict, ParityResult
from ...machine.doctor import Diagnosis
from ...machine.inventory import Inventory
from ...settings import placement
from ...settings.making import SYNTHETIC
from ...storage.manifest import Manifest
from . import explanation
from .tables import apart, decibels, number, row_name, table, text

MIB = 1 << 20
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
    columns = ["variant", "runner", "target", "prec", "verdict", ">SQNR dB", ">limit"]
    twice = any(cell.file_max_abs is not None or cell.fault for cell in result.cells)
    columns += [">file", ">kernels"] * twice
    shown = table(*columns, ">cosine", ">max rel", ">top-1", ">n")
    for cell in result.cells:
        if cell.status == "ok":
            shown.add_row(
                cell.variant,
                cell.runner,
                cell.target,
                cell.precision or "",
                cell.verdict or "",
                decibels(cell.sqnr_db, cell.max_abs),
                number(cell.gate["min_sqnr_db"], ".1f"),
                *_twice(cell)[: 2 * twice],
                number(cell.cosine, ".6f"),
                number(cell.max_rel, ".1e"),
                number(cell.top1_agreement, ".1%"),
                str(cell.samples),
            )
    parts: list[RenderableType] = [shown] if shown.row_count else []
    for cell in result.cells:
        if note := placement.spread(cell.placement, cell.provider or ""):
            parts.append(f"  {row_name(cell, result.cells)}: {note}")
    parts += _reasons(result.cells)
    parts += _problems(result.problems)
    parts.append(f"  torch's float32 {_reference(result.reference)} on these goldens")
    if twice:
        parts.append(f"  {TWICE}")
    return text(*parts)


def _twice(cell: CellVerdict | CellAccuracy) -> list[str]:
    """What the file costs and what the kernels cost, dB."""
    kernels = decibels(cell.kernels_sqnr_db, cell.kernels_max_abs)
    return [decibels(cell.file_sqnr_db, cell.file_max_abs), kernels]


def _reference(sqnr_db: float) -> str:
    if math.isfinite(sqnr_db):
        return f"is {sqnr_db:.1f} dB from its float64"
    return "equals its float64" if sqnr_db > 0 else "can't be compared with its float64"


def evaluation_table(result: EvaluationResult) -> str:
    """The cells of an evaluation with the reasons below it."""
    remote = any(cell.target != "local" for cell in result.cells if cell.status == "ok")
    columns = ["variant", "runner", "prec", "verdict", ">top-1", ">95 % CI", ">top-5"]
    columns += [">drop", ">95 % CI", ">p"]
    twice = any(cell.file_max_abs is not None for cell in result.cells)
    columns += [">file", ">kernels"] * twice
    if remote:
        columns.insert(2, "target")
    shown = table(*columns)
    for cell in result.cells:
        if cell.status == "ok":
            row = _accuracy_row(cell) + _twice(cell)[: 2 * twice]
            if remote:
                row.insert(2, cell.target)
            shown.add_row(*row)
    parts: list[RenderableType] = [shown] if shown.row_count else []
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


def _accuracy_row(cell: CellAccuracy) -> list[str]:
    low, high = cell.top1_ci95 or (0.0, 0.0)
    drop = cell.drop
    row = [
        cell.variant,
        cell.runner,
        cell.precision or "",
        cell.verdict or ("–" if cell.drop else "reference"),
        number(cell.top1, ".2%"),
        f"{100 * low:.1f}–{100 * high:.1f}",
        number(cell.top5, ".1%"),
    ]
    if drop is None:
        return [*row, "–", "–", "–"]
    interval = "{:.2f} to {:.2f}".format(*drop.ci95)
    return [*row, f"{drop.points:.2f}", interval, f"{drop.p_value:.2g}"]


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
