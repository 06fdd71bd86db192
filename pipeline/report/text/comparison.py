"""A comparison of models as text for the terminal and as a plot of what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import formatting
from .formatting import mebibytes, millions, ms, number

if TYPE_CHECKING:
    from ...speed.compare import Candidate, CompareResult
    from ...speed.convolutions import Convolution


def text(result: CompareResult) -> str:
    """What each model costs, how fast it is, and where the published figures come from."""
    parts: list[Any] = [_costs(result)]
    if not result.static:
        parts.append(_speeds(result))
    if result.convolutions:
        parts.append(_convolutions(result.convolutions))
    return formatting.text(*parts, *_notes(result))


def _costs(result: CompareResult) -> formatting.Table:
    measured = not result.static
    columns = ["model", ">px", ">parameters", ">MMACs", ">peak MiB", ">top-1 %"]
    made = formatting.table(
        *columns, *((">fp32 MiB", ">int8 MiB", ">train ms") if measured else ())
    )
    for row in result.models:
        width = "" if row.width in (None, 1.0) else f" x{row.width:g}"
        cells = [
            f"{row.model}{width}",
            number(row.input_size, "d"),
            f"{row.parameters:,}",
            millions(row.macs),
            mebibytes(row.activation_peak_bytes),
            number(row.published_top1, ".1f"),
        ]
        if measured:
            sizes = (row.size_bytes.get(name) for name in ("fp32", "int8"))
            cells += [mebibytes(size) for size in sizes]
            cells.append(ms(row.training_step_ms))
        made.add_row(*cells)
    return made


def _speeds(result: CompareResult) -> formatting.Table:
    made = formatting.table(
        *("", "model", "runner", "variant", ">p50 ms", ">95 % interval", ">RSS MiB", "verdict")
    )
    for row in result.models:
        for speed in row.speeds:
            if speed.p50_ms is None:
                continue
            interval = "–".join(map(ms, speed.ci95_ms)) if speed.ci95_ms else "–"
            made.add_row(
                "◆" if speed.pareto else "",
                row.model,
                speed.runner,
                speed.variant,
                ms(speed.p50_ms),
                interval,
                number(speed.peak_rss_mib, ".0f"),
                speed.verdict or "",
            )
    return made


def _convolutions(shapes: tuple[Convolution, ...]) -> formatting.Table:
    runners = [timed.runner for timed in shapes[0].timed]
    clock = [f">{runner} {what}" for runner in runners for what in ("ms", "ratio")]
    made = formatting.table("3x3 convolution", ">MMACs", ">separable", ">ratio", ">MACs/B", *clock)
    for shape in shapes:
        cells = [
            f"{shape.inputs}→{shape.outputs} {shape.size}px /{shape.stride}",
            f"{shape.standard_macs / 1e6:.0f}",
            f"{shape.separable_macs / 1e6:.1f}",
            f"{shape.ratio:.1f}",
            f"{shape.standard_intensity:.0f}/{shape.separable_intensity:.1f}",
        ]
        for timed in shape.timed:
            known = timed.standard_ms is not None and timed.separable_ms is not None
            cells.append(
                f"{ms(timed.standard_ms or 0)}/{ms(timed.separable_ms or 0)}" if known else "–"
            )
            cells.append(number(timed.ratio, ".1f"))
        made.add_row(*cells)
    return made


def _notes(result: CompareResult) -> list[str]:
    lines = [
        "  MMACs: million multiply-accumulates of one image; peak: activations alive at once, f32",
        "  top-1: ImageNet, published, of float32 weights, not measured here:",
    ]
    lines += [f"    {', '.join(names)}: {source}" for source, names in sources(result.models)]
    if any(speed.pareto for row in result.models for speed in row.speeds):
        lines.append("  ◆ nothing else here is both faster on that runner and more accurate")
    if any(row.training_step_ms for row in result.models):
        lines.append("  train: torch, one image of a step with a batch of 8")
    lines += [f"  {doubt}" for doubt in doubts(result.models)]
    for timed in result.convolutions[0].timed if result.convolutions else ():
        if timed.reason:
            lines.append(f"  {timed.runner}: {timed.reason}")
    return lines


def sources(rows: Sequence[Candidate]) -> list[tuple[str, list[str]]]:
    """Where published accuracies are from, each with its models."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.published_top1_from:
            found.setdefault(row.published_top1_from, []).append(row.model)
    return list(found.items())


def doubts(rows: Sequence[Candidate]) -> list[str]:
    """What keeps figures away or makes them doubtful: what holds for all, then cell by cell."""
    cells = [(row.model, speed) for row in rows for speed in row.speeds]
    measured = [speed for _, speed in cells if speed.status == "ok"]
    common = [
        note
        for note in (measured[0].notes if len(measured) > 1 else ())
        if all(note in speed.notes for speed in measured)
    ]
    lines: dict[str, dict[str, None]] = {}
    for model, speed in cells:
        reasons = [note for note in speed.notes if note not in common]
        if speed.status != "ok":
            reasons.append(f"{speed.status}: {speed.reason}")
        absent = speed.status == "unavailable"  # whatever the model
        alike = [one for whose, one in cells if whose == model]
        name = speed.runner if absent else f"{model} {formatting.row_name(speed, alike)}"
        lines.setdefault(name, {}).update(dict.fromkeys(reasons))
    return [*common, *(f"{name}: {'; '.join(found)}" for name, found in lines.items() if found)]
