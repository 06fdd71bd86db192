"""A comparison of models as tables, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....runners.images import spelled
from ...numerics.precision import GIVEN
from ...speed.comparison.candidates import Candidate, Speed
from ...speed.comparison.compare import CompareResult
from ...speed.comparison.convolutions import Convolution
from ..tables import formatting
from ..tables.columns import PRECISION, RSS, RUNNER, TARGET, VERDICT
from ..tables.formatting import NONE, interval, mebibytes, millions, moment, ms, number
from ..tables.table import Column, Table, figure

FRONT = "◆"
Timing = tuple[Candidate, Speed]

# What all models share stands in the caption.
INPUTS = (
    figure("weights", lambda row: row.weights),
    figure("pixels", lambda row: spelled(row.input_size) if row.input_size else NONE, "px"),
    figure("classes", lambda row: number(row.classes, "d")),
)
COSTS = (
    figure("parameters", lambda row: f"{row.parameters:,}"),
    figure("MMACs", lambda row: millions(row.macs)),
    figure("activation peak MiB", lambda row: mebibytes(row.activation_peak_bytes), "peak MiB"),
    figure("fp32 MiB", lambda row: mebibytes(row.size_bytes.get("fp32"))),
    figure("int8 MiB", lambda row: mebibytes(row.size_bytes.get("int8"))),
    figure("given MiB", lambda row: mebibytes(row.size_bytes.get(GIVEN))),
    figure("training step ms", lambda row: ms(row.training_step_ms), "train ms"),
    figure("top-1 %", lambda row: number(row.published_top1, ".1f")),
)
SPEEDS = (
    figure("p50 ms", lambda one: f"{FRONT} {ms(one.p50_ms)}" if one.pareto else ms(one.p50_ms)),
    figure("95 % interval", lambda one: interval(one.ci95_ms, ms)),
    figure("of the first's time", lambda one: number(one.ratio, ".2f"), "/ first"),
    figure("95 % interval", lambda one: interval(one.ratio_ci95, "{:.2f}".format)),
    *(RSS, VERDICT),
)
CONVOLUTIONS = (
    figure("standard", lambda shape: f"{shape.standard_macs / 1e6:.0f}", "MMACs", "MMACs"),
    figure("separable", lambda shape: f"{shape.separable_macs / 1e6:.1f}", "sep.", "MMACs"),
    figure("ratio", lambda shape: f"{shape.ratio:.1f}", group="MMACs"),
    figure("standard", lambda shape: f"{shape.standard_intensity:.0f}", "MACs/B", "MACs per byte"),
    figure("separable", lambda shape: f"{shape.separable_intensity:.1f}", "sep.", "MACs per byte"),
)


def text(result: CompareResult) -> str:
    """What each model costs, how fast it is, and where the published figures come from."""
    shown = (costs(result), speeds(result), convolutions(result.convolutions))
    parts = [part for table in shown if table for part in (table.text(), f"  {table.caption}")]
    lines = [
        "MMACs: million multiply-accumulates of one image; peak: activations alive at once, f32",
    ]
    if any(row.published_top1 for row in result.models):
        lines.append("top-1: ImageNet, published, of float32 weights, not measured here")
    if any(speed.pareto for row in result.models for speed in row.speeds):
        lines.append(
            f"{FRONT} nothing else here is both faster under the same conditions and more accurate"
        )
    if any(row.training_step_ms for row in result.models):
        lines.append("train: torch, one image of a step with a batch of 8")
    if result.convolutions:
        lines.append("sep.: a depthwise and a pointwise convolution instead; runners: ms")
    return formatting.text(*parts, *(f"  {line}" for line in (*lines, *notes(result))))


def costs(result: CompareResult) -> Table:
    """What each model costs by arithmetic, on the disk and in training, and how right it is."""
    varying, common = [], ["Models of the workspace" if result.artifacts else "Models of the zoo"]
    for column in INPUTS:
        values = {column.get(row) or NONE for row in result.models}
        if len(values) == 1:
            common.append(f"{values.pop()} {column.title}")
        else:
            varying.append(column)
    shown = (Column("model", _model), *varying, *COSTS)
    table = Table.of(shown, result.models, "; ".join(common))
    return table.without(lambda column: NONE if column.figure else None)


def speeds(result: CompareResult) -> Table | None:
    """Latency and peak memory of each variant on each runner; ``None`` if nothing was run."""
    timings = [
        (row, speed)
        for row in result.models
        for speed in row.speeds
        if speed.status != "unavailable"
    ]
    hosts = result.hosts or {"local": result.host}
    cpus = [
        f"{host.get('cpu', 'an unknown CPU')}{f' ({target})' if len(hosts) > 1 else ''}"
        for target, host in hosts.items()
    ]
    machines = " and ".join(cpus)
    caption = f"Measured by turns on {machines}, {moment(result.measured)}"
    shown = Table.of(_speed_columns(timings), timings, caption)
    return shown.without(lambda column: NONE if column.figure else None) if timings else None


def convolutions(shapes: Sequence[Convolution]) -> Table | None:
    """Standard beside depthwise-separable ones at MobileNetV2's shapes."""
    if not shapes:
        return None
    shown = [Column("3×3 convolution", _shape), *CONVOLUTIONS]
    for place, timed in enumerate(shapes[0].timed):
        shown += _clock(place, timed.runner)
    caption = "MobileNetV2’s depthwise layers with their projections, and one 3×3 instead of both"
    return Table.of(shown, shapes, caption)


def _sources(rows: Sequence[Candidate]) -> list[str]:
    """Where published accuracies are from, each with its models."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.published_top1_from:
            found.setdefault(row.published_top1_from, []).append(row.model)
    return [f"Top-1 of {', '.join(names)}: {source}." for source, names in found.items()]


def _doubts(rows: Sequence[Candidate]) -> list[str]:
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


def notes(result: CompareResult) -> list[str]:
    """Sources of what was not measured, what stands in the way of a figure, what to doubt."""
    timed = [one for shape in result.convolutions for one in shape.timed if one.reason]
    reasons = dict.fromkeys(f"{one.runner}: {one.reason}" for one in timed)
    return [*_sources(result.models), *_doubts(result.models), *reasons]


def _speed_columns(timings: Sequence[Timing]) -> list[Column]:
    """What tells cells apart where they differ in it, then time and memory."""

    def of(column: Column) -> Column:
        return replace(column, get=lambda timing: column.get(timing[1]))

    found = [speed for _, speed in timings]
    apart = [
        column
        for column, attribute in ((TARGET, "target"), (PRECISION, "precision"))
        if len({getattr(speed, attribute) for speed in found} - {None}) > 1
    ]
    return [Column("model · variant", _variant), *map(of, (RUNNER, *apart, *SPEEDS))]


def _clock(place: int, runner: str) -> tuple[Column, ...]:
    """A runner's times: the ``place``-th of each shape."""
    group = f"{runner}, ms"
    return (
        figure("standard", lambda shape: ms(shape.timed[place].standard_ms), runner, group),
        figure("separable", lambda shape: ms(shape.timed[place].separable_ms), "sep.", group),
        figure("ratio", lambda shape: number(shape.timed[place].ratio, ".1f"), group=group),
    )


def _model(row: Candidate) -> str:
    return row.model if row.width in (None, 1.0) else f"{row.model} × {row.width:g}"


def _variant(timing: Timing) -> str:
    row, speed = timing
    return f"{_model(row)} · {speed.variant}"


def _shape(shape: Convolution) -> str:
    stride = "" if shape.stride == 1 else f", /{shape.stride}"
    return f"{shape.inputs} → {shape.outputs}, {shape.size} × {shape.size}{stride}"
