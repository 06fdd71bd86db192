"""The table to choose a model by, and what separable convolutions save, for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...speed.compare import Candidate, CompareResult, Speed
from ...speed.convolutions import Convolution, Timed
from ..gather import Report
from ..text.comparison import doubts, sources
from ..text.formatting import MIB, mebibytes, millions, moment, ms, number
from ..text.table import NONE, Column, Table, Value, Verdict

Get = Callable[[Candidate], str]
FRONT = "◆"


def section(report: Report) -> dict[str, Any] | None:
    """What the templates take, ``None`` if nothing was compared."""
    found = report.comparison
    if found is None:
        return None
    return {
        "costs": costs(found),
        "speeds": speeds(found),
        "convolutions": convolutions(found.convolutions),
        "notes": notes(found, report),
        "undrawn": undrawn(found),
        "front": FRONT,
    }


def costs(found: CompareResult) -> Table:
    """What each model costs by arithmetic, on the disk and in training, and how right it is."""
    columns: list[tuple[str, Get]] = [
        ("parameters", lambda row: f"{row.parameters:,}"),
        ("MMACs", lambda row: millions(row.macs)),
        ("activation peak MiB", lambda row: mebibytes(row.activation_peak_bytes)),
        ("fp32 MiB", lambda row: _mib(row, "fp32")),
        ("int8 MiB", lambda row: _mib(row, "int8")),
        ("training step ms", lambda row: ms(row.training_step_ms)),
        ("top-1 %", lambda row: number(row.published_top1, ".1f")),
    ]
    common = []
    for title, get in reversed(_INPUTS):
        values = {get(row) for row in found.models}
        if len(values) == 1:
            common.insert(0, f"{values.pop()} {title}")
        else:
            columns.insert(0, (title, get))
    shown = (Column("model"), *(Column(title, figure=True) for title, _ in columns))
    rows = tuple((_model(row), *(get(row) for _, get in columns)) for row in found.models)
    return Table("; ".join([_origin(found), *common]), shown, rows)


def speeds(found: CompareResult) -> Table | None:
    """Latency and peak memory of each variant, the runners side by side."""
    measured = [one for row in found.models for one in row.speeds if one.status == "ok"]
    runners = list(dict.fromkeys(one.runner for one in measured))
    columns = [Column("model · variant")]
    for runner in runners:
        columns += [Column(title, figure=True, group=runner) for title in _TIMES]
        columns += [Column("verdict", group=runner)]
    rows = [
        (f"{_model(row)} · {variant}", *_by_runner(row, variant, runners))
        for row in found.models
        for variant in dict.fromkeys(one.variant for one in row.speeds if one.variant)
    ]
    cpu = found.host.get("cpu", "an unknown CPU")
    caption = f"Measured in the same interleaved rounds on {cpu}, {moment(found.measured)}"
    return Table(caption, tuple(columns), tuple(rows)) if runners else None


def convolutions(shapes: Sequence[Convolution]) -> Table | None:
    """Standard beside depthwise-separable ones at MobileNetV2's shapes."""
    if not shapes:
        return None
    columns = [
        Column("3×3 convolution"),
        *(Column(title, figure=True, group="MMACs") for title in _KINDS),
        *(Column(title, figure=True, group="MACs per byte") for title in ("standard", "separable")),
    ]
    for timed in shapes[0].timed:
        columns += [Column(title, figure=True, group=f"{timed.runner}, ms") for title in _KINDS]
    caption = "MobileNetV2’s depthwise layers with their projections, and one 3×3 instead of both"
    return Table(caption, tuple(columns), tuple(map(_shape, shapes)))


def notes(found: CompareResult, report: Report) -> list[str]:
    """Sources of what was not measured, what stands in the way of a figure, what to doubt."""
    lines = [f"Top-1 of {', '.join(names)}: {source}." for source, names in sources(found.models)]
    bench = report.bench_cpu("local")
    if bench and found.host.get("cpu") != bench:
        lines.append(f"The models were compared on another CPU than bench’s ({bench}).")
    lines += doubts(found.models)
    reasons = (f"{timed.runner}: {timed.reason}" for timed in _timed(found) if timed.reason)
    return [*lines, *dict.fromkeys(reasons)]


def undrawn(found: CompareResult) -> list[str]:
    """The models that have no place in the plot."""
    return [row.model for row in found.models if row.published_top1 is None]


_TIMES = ("p50 ms", "95 % interval", "RSS MiB")
_KINDS = ("standard", "separable", "ratio")
_INPUTS: list[tuple[str, Get]] = [
    ("weights", lambda row: row.weights or NONE),
    ("pixels", lambda row: number(row.input_size, "d")),
    ("classes", lambda row: number(row.classes, "d")),
]


def _origin(found: CompareResult) -> str:
    return "Models of the workspace" if found.artifacts else "Models of the zoo"


def _model(row: Candidate) -> str:
    return row.model if row.width in (None, 1.0) else f"{row.model} × {row.width:g}"


def _mib(row: Candidate, variant: str) -> str:
    return f"{row.size_bytes[variant] / MIB:.1f}" if variant in row.size_bytes else NONE


def _by_runner(row: Candidate, variant: str, runners: Sequence[str]) -> list[Value]:
    by_runner = {one.runner: one for one in row.speeds if one.variant == variant}
    return [value for runner in runners for value in _speed(by_runner.get(runner))]


def _speed(found: Speed | None) -> tuple[Value, ...]:
    if found is None:
        return (NONE,) * (len(_TIMES) + 1)
    interval = "{}–{}".format(*map(ms, found.ci95_ms)) if found.ci95_ms else NONE
    front = f"{FRONT} " if found.pareto else ""
    memory = number(found.peak_rss_mib, ".0f")
    verdict = Verdict(found.verdict or found.status)
    return (front + ms(found.p50_ms), interval, memory, verdict)


def _shape(shape: Convolution) -> tuple[str, ...]:
    stride = "" if shape.stride == 1 else f", stride {shape.stride}"
    name = f"{shape.inputs} → {shape.outputs}, {shape.size} × {shape.size}{stride}"
    figures = [
        f"{shape.standard_macs / 1e6:.0f}",
        f"{shape.separable_macs / 1e6:.1f}",
        f"{shape.ratio:.1f}",
        f"{shape.standard_intensity:.0f}",
        f"{shape.separable_intensity:.1f}",
    ]
    for timed in shape.timed:
        figures += [ms(timed.standard_ms), ms(timed.separable_ms), number(timed.ratio, ".1f")]
    return name, *figures


def _timed(found: CompareResult) -> Sequence[Timed]:
    return [timed for shape in found.convolutions for timed in shape.timed]
