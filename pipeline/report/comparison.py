"""A comparison of models as text for the terminal and as a plot of what there is to choose from."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from . import tables
from .tables import ms, number

if TYPE_CHECKING:
    from ..stages.compare import Candidate, CompareResult
    from ..stages.convolutions import Convolution

MIB = 1 << 20
COLOURS = {"fp32": "#1f6feb", "int8": "#bc4c00"}
OTHER_COLOUR = "#6e7781"
# Points² of a model of 1 MiB, so that ten times the size is ten times the area.
AREA_PER_MIB = 6.0


def text(result: CompareResult) -> str:
    """What each model costs, how fast it is, and where the published figures come from."""
    parts: list[Any] = [_costs(result)]
    if not result.static:
        parts.append(_speeds(result))
    if result.convolutions:
        parts.append(_convolutions(result.convolutions))
    return tables.text(*parts, *_notes(result))


def svg(result: CompareResult) -> str:
    """Published accuracy against measured time, one panel for each runner; area is file size.

    Raises ``ImportError`` without matplotlib.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    runners = list(
        dict.fromkeys(speed.runner for row in result.models for speed in row.speeds if speed.p50_ms)
    )
    figure = Figure(figsize=(9, 4.5 * max(1, len(runners))), layout="constrained")
    for place, runner in enumerate(runners, 1):
        _panel(figure.add_subplot(len(runners), 1, place), result, runner)
    buffer = io.StringIO()
    # Text stays text, and equal results give equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgepipe"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _costs(result: CompareResult) -> tables.Table:
    measured = not result.static
    columns = ["model", ">px", ">parameters", ">MMACs", ">peak MiB", ">top-1 %"]
    made = tables.table(*columns, *((">fp32 MiB", ">int8 MiB", ">train ms") if measured else ()))
    for row in result.models:
        width = "" if row.width in (None, 1.0) else f" x{row.width:g}"
        cells = [
            f"{row.model}{width}",
            number(row.input_size, "d"),
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.0f}",
            f"{row.activation_peak_bytes / MIB:.1f}",
            number(row.published_top1, ".1f"),
        ]
        if measured:
            sizes = (row.size_bytes.get(name) for name in ("fp32", "int8"))
            cells += [number(size and size / MIB, ".1f") for size in sizes]
            cells.append("–" if row.training_step_ms is None else ms(row.training_step_ms))
        made.add_row(*cells)
    return made


def _speeds(result: CompareResult) -> tables.Table:
    made = tables.table(
        *("", "model", "runner", "variant", ">p50 ms", ">95 % interval", ">RSS MiB", "verdict")
    )
    for row in result.models:
        for speed in row.speeds:
            if speed.p50_ms is None or speed.ci95_ms is None:
                continue
            low, high = speed.ci95_ms
            made.add_row(
                "◆" if speed.pareto else "",
                row.model,
                speed.runner,
                speed.variant,
                ms(speed.p50_ms),
                f"{ms(low)}–{ms(high)}",
                number(speed.peak_rss_mib, ".0f"),
                speed.verdict or "",
            )
    return made


def _convolutions(shapes: tuple[Convolution, ...]) -> tables.Table:
    runners = [timed.runner for timed in shapes[0].timed]
    clock = [f">{runner} {what}" for runner in runners for what in ("ms", "ratio")]
    made = tables.table("3x3 convolution", ">MMACs", ">separable", ">ratio", ">MACs/B", *clock)
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
    by_source: dict[str, list[str]] = {}
    for row in result.models:
        if row.published_top1_from:
            by_source.setdefault(row.published_top1_from, []).append(row.model)
    lines += [f"    {', '.join(names)}: {source}" for source, names in by_source.items()]
    if any(speed.pareto for row in result.models for speed in row.speeds):
        lines.append("  ◆ nothing else here is both faster on that runner and more accurate")
    if any(row.training_step_ms for row in result.models):
        lines.append("  train: torch, one image of a step with a batch of 8")
    lines += _why(result.models)
    for timed in result.convolutions[0].timed if result.convolutions else ():
        if timed.reason:
            lines.append(f"  {timed.runner}: {timed.reason}")
    return lines


def _why(rows: tuple[Candidate, ...]) -> list[str]:
    """A line for each thing that keeps figures away or makes them doubtful, with the cells."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for speed in row.speeds:
            absent = [f"{speed.status}: {speed.reason}"] if speed.status != "ok" else []
            for reason in (*absent, *speed.notes):
                cell = f"{row.model} {speed.variant}/{speed.runner}"
                missing = speed.status == "unavailable"
                names = reasons.setdefault(reason, [])
                if (name := speed.runner if missing else cell) not in names:
                    names.append(name)
    return [f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _panel(axes: Any, result: CompareResult, runner: str) -> None:
    points = [
        (speed, row)
        for row in result.models
        for speed in row.speeds
        if speed.runner == runner and speed.p50_ms and row.published_top1
    ]
    for speed, row in points:
        size = row.size_bytes.get(speed.variant, 0) / MIB
        colour = COLOURS.get(speed.variant, OTHER_COLOUR)
        spot = (speed.p50_ms, row.published_top1)
        axes.scatter(*spot, s=AREA_PER_MIB * size, color=colour, alpha=0.35, linewidths=0)
        axes.scatter(*spot, s=9, color=colour)
        label = f"{row.model} {speed.variant}"
        axes.annotate(label, spot, xytext=(4, 4), textcoords="offset points", fontsize=7)
    front = sorted((speed.p50_ms, row.published_top1) for speed, row in points if speed.pareto)
    if front:
        axes.plot(*zip(*front, strict=True), color=OTHER_COLOUR, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("p50, ms")
    axes.set_ylabel("ImageNet top-1, published for float32, %")
    axes.set_title(f"{runner}: area is the file's size; dotted: the Pareto front", fontsize=10)
    axes.margins(0.15)
    axes.grid(visible=True, alpha=0.3)
