"""What a report says, as tables and lines: the same for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....runners.targets import estimate
from ...judging.explanation import Explanation
from ...numerics.intervals import SAMPLES_NEEDED
from ...numerics.metrics import MEASURED
from ...settings.making import SYNTHETIC
from ...speed.bench_result import CellResult
from ..choice import speed
from ..gather import Report, Row
from ..text import columns
from ..text.columns import figure
from ..text.formatting import MIB, cpu_of, number
from ..text.table import NONE, Column, Table
from .cell_table import CELL

LABELS_SHOWN = 12
LAYERS_SHOWN = 5


def identity(report: Report) -> list[tuple[str, str]]:
    """What was exported, from what, and how."""
    manifest = report.manifest
    model, shape = manifest.model, manifest.preprocessing
    export = manifest.stage("export")
    trained = "" if model["trained"] else ", untrained"
    width = f" of width {model['width']:g}" if model.get("width") not in (None, 1) else ""
    simplified = "yes" if model["simplified"] else f"no: {model['not_simplified_because']}"
    facts = [
        ("Architecture", f"{model['architecture']}{width}, {model['parameters']:,} parameters"),
        ("Weights", f"{model['weights']}{trained}"),
        ("SHA-256 of the weights", str(model["weights_sha256"] or "none: they are random")),
        *(_images(model, shape) if shape else [("Inputs", _inputs(model))]),
        ("Labels", _labels(model["classes"], manifest.labels)),
        ("Exporter", f"{model['exporter']}, opset {model['opset']}"),
        ("Simplified", simplified),
        ("Variants", ", ".join(manifest.variants)),
    ]
    for title, part in (("Calibrated on", "calibration"), ("Goldens", "goldens")):
        if about := model.get(part):
            facts.append((title, f"{about['count']} images, {about['from']}"))
    distance = export.result.get("reference_sqnr_db") if export else None
    if distance is not None:
        facts.append(("Reference", f"torch's float32, {distance:.1f} dB from its own float64"))
    return facts


def _images(model: Mapping[str, Any], shape: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How an image becomes the input."""
    size, order = model["input_size"], str(shape.get("channels", "rgb")).upper()
    pixels = f"{size} × {size} pixels {order}, batch {model['batch']}, {shape['resize']} resize"
    normalization = f"mean {_listing(shape['mean'])}, std {_listing(shape['std'])}"
    inside = ", in the model: it takes uint8 NHWC" if shape.get("folded") else ""
    return [("Input", pixels), ("Normalization", normalization + inside)]


def _inputs(model: Mapping[str, Any]) -> str:
    """The inputs of a model that takes no images."""
    inputs = (f"{one['name']} {one['dtype']} {one['shape']}" for one in model["inputs"])
    return f"{', '.join(inputs)}, batch {model['batch']}"


def artifacts(report: Report) -> Table:
    """The files with their digests."""
    rows = [
        (name, f"{found.size / MIB:.2f}", found.sha256)
        for name, found in report.manifest.artifacts.items()
    ]
    heads = (Column("File"), Column("MiB", figure=True), Column("SHA-256"))
    return Table("Files of the workspace", heads, tuple(rows))


def reasons(report: Report) -> list[tuple[str, str]]:
    """What is to be said of a cell, by its name."""
    found = []
    for row in report.rows:
        lines = []
        if row.bench:
            lines += [f"timing {row.bench.status}: {row.bench.reason}"] if row.bench.reason else []
            lines += [f"timing {row.bench.verdict}: {'; '.join(row.bench.notes)}"] * bool(
                row.bench.notes
            )
        if row.parity and row.parity.reason:
            lines.append(f"parity {row.parity.verdict or row.parity.status}: {row.parity.reason}")
        found += [(row.name(" · "), line) for line in lines]
    return found


def comparisons(report: Report) -> Table | None:
    """New times against the baseline's, if bench was given one."""
    rows = [row for row in report.rows if row.bench and row.bench.comparison]
    limit = figure("at most", lambda cell: f"{1 + cell.comparison.max_slowdown:.3g}")
    why = Column("why", lambda cell: cell.comparison.reason or "")
    shown = (columns.RATIO, columns.RATIO_INTERVAL, limit, columns.AGAINST_VERDICT, why)
    baseline = report.bench.baseline if report.bench else None
    return _dense(f"Compared with {baseline}", shown, "bench", rows) if rows else None


def _dense(caption: str, shown: Sequence[Column], part: str, rows: Sequence[Row]) -> Table:
    """A table of what one command says of these rows, without columns that say nothing."""

    def of(column: Column) -> Column:
        return replace(column, get=lambda row: column.get(getattr(row, part)))

    return Table.of([CELL, *map(of, shown)], rows, caption).without(lambda _: "")


def accuracy(report: Report) -> Table | None:
    """Right answers on labelled images, and what was lost against the reference."""
    if report.evaluation is None:
        return None
    data, reference = report.evaluation.data, report.evaluation.reference
    shown = (columns.TOP1, columns.TOP1_INTERVAL, columns.TOP5, columns.DROP)
    shown += (columns.DROP_INTERVAL, columns.ACCURACY_VERDICT, columns.WHY)
    against = (
        f", drops against {reference['variant']} on {reference['runner']}" if reference else ""
    )
    caption = f"{data['images']} images of {data['classes']} classes: {data['name']}{against}"
    return _dense(caption, shown, "accuracy", [row for row in report.rows if row.accuracy])


def worst_layers(cell: Explanation) -> Table | None:
    """The layers of one cell that add the most error."""
    if not cell.layers:
        return None
    rows = tuple(
        (
            layer.layer,
            layer.operators,
            _db(layer.sqnr_db, layer.state if layer.own_sqnr_db is None else MEASURED),
            _db(layer.own_sqnr_db, layer.state),
            number(layer.clipped, ".2%"),
        )
        for layer in cell.layers[:LAYERS_SHOWN]
    )
    heads = (
        Column("layer"),
        Column("operators"),
        Column("SQNR so far, dB", figure=True),
        Column("its own, dB", figure=True),
        Column("values clipped", figure=True),
    )
    place = "" if cell.target == "local" else f" at {cell.target}"
    caption = (
        f"{cell.variant} · {cell.runner}{place}: the {len(rows)} worst of {len(cell.layers)} layers"
    )
    return Table(caption, heads, rows)


def settings(report: Report) -> Table | None:
    """The cells that don't run with the defaults."""
    rows = tuple(
        (
            row.name(" · "),
            NONE if cell.threads is None else str(cell.threads),
            NONE if cell.streams is None else str(cell.streams),
            ", ".join(f"{name} {value}" for name, value in cell.options.items()) or NONE,
            "tune" if cell.tuned else "asked for",
        )
        for row in report.rows
        if (cell := row.bench) and cell.status == "ok" and (cell.tuned or cell.options)
    )
    heads = (
        Column("cell"),
        Column("threads", figure=True),
        Column("streams", figure=True),
        Column("options"),
        Column("from"),
    )
    return Table("Settings other than the defaults", heads, rows) if rows else None


def hosts(report: Report) -> Table:
    """The machines that the figures come from, a column for each."""
    found = report.hosts
    facts: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("CPU", cpu_of),
        ("Flags", lambda host: _listing(host.get("cpu_flags", ())) or "none of note"),
        ("Cores", _cores),
        ("Virtual machine", lambda host: "yes" if host.get("virtual_machine") else "no"),
        ("Memory", lambda host: f"{host.get('memory_mib', 0) / 1024:.1f} GiB"),
        ("Frequency governor", lambda host: str(host.get("governor") or "not shown")),
        ("System", lambda host: str(host.get("os", NONE))),
        ("Python", lambda host: str(host.get("python", NONE))),
    ]
    rows = tuple((title, *(show(host) for host in found.values())) for title, show in facts)
    return Table("By target", (Column(""), *map(Column, found)), rows)


def tools(report: Report) -> Table:
    """Versions of what made the files and of what ran them."""
    rows = [
        (name, version or "absent", "export") for name, version in report.manifest.tools.items()
    ]
    versions = {
        (row.runner, cell.runner_version, row.target)
        for row in report.rows
        for cell in (row.bench, row.parity, row.accuracy)
        if cell and cell.runner_version
    }
    rows += [(name, version, f"runner at {target}") for name, version, target in sorted(versions)]
    return Table(
        "Versions that were used",
        (Column("tool"), Column("version"), Column("used by")),
        tuple(rows),
    )


def limits(report: Report) -> list[str]:
    """What these results do not show."""
    lines = [
        f"{source.file} is {source.state}{': ' if source.reason else ''}{source.reason}; "
        f"{source.command} makes it."
        for source in report.sources
        if source.state != "current"
    ]
    goldens = report.manifest.model.get("goldens")
    if goldens and goldens["from"] == SYNTHETIC:
        lines.append("The goldens are noise: fidelity on photographs was not measured.")
    timed = [row.bench for row in report.rows if row.bench and speed(row.bench)]
    if report.bench and report.bench.quick:
        lines.append("The bench was a quick one: a single round, which carries no interval.")
    if timed and all(cell.energy_mj is None for cell in timed):
        why = next(
            (host["no_energy"] for host in report.hosts.values() if host.get("no_energy")), ""
        )
        lines.append(f"Energy was not measured{f': {why}' if why else ''}.")
    if timed and all(cell.load_cached_ms is None for cell in timed):
        lines.append("Loading from a runner's cache was not measured.")
    lines += _percentiles(timed)
    lines += [
        f"{target}: an {estimate(host['isa'])}; no evidence of such a machine."
        for target, host in report.hosts.items()
        if host.get("isa")
    ]
    if report.bench and sum(not host.get("isa") for host in report.bench.hosts.values()) == 1:
        lines.append("One machine was measured; another CPU may rank the cells differently.")
    if report.rows:
        lines.append(
            "SQNR and top-1 say how near the outputs are to torch's, not how right torch is."
        )
    return lines


def _percentiles(timed: Sequence[CellResult]) -> list[str]:
    """Which percentiles the samples don't carry."""
    lines = []
    for rank in (90, 99):
        poor = [
            cell
            for cell in timed
            if cell.latency_ms and getattr(cell.latency_ms, f"p{rank}") is None
        ]
        if poor:
            some = (
                "No cell"
                if len(poor) == len(timed)
                else f"{len(timed) - len(poor)} of {len(timed)} cells"
            )
            have = "has" if len(poor) >= len(timed) - 1 else "have"
            lines.append(f"{some} {have} a p{rank}: that takes {SAMPLES_NEEDED[rank]} samples.")
    return lines


def _db(value: float | None, state: str) -> str:
    """A distance, or what there is in its place: "equal", "broken", or a dash."""
    return state if value is None and state != MEASURED else number(value, ".1f")


def _cores(host: Mapping[str, Any]) -> str:
    quota = host.get("cpu_quota")
    limit = f", limited to {quota:g}" if quota else ""
    physical, logical = host.get("physical_cores", NONE), host.get("logical_cpus", NONE)
    return f"{physical} physical, {logical} logical{limit}"


def _labels(classes: int | None, labels: Sequence[str] | None) -> str:
    if classes is None:
        return "none: no classifier"
    if not labels:
        return f"{classes}, without names"
    shown = ", ".join(labels[:LABELS_SHOWN])
    return f"{classes}: {shown}{', …' if len(labels) > LABELS_SHOWN else ''}"


def _listing(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
