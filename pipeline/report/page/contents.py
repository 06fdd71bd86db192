"""What a report says, as tables and lines: the same for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....runners.images import Preprocessing
from ....runners.targets import estimate
from ...numerics.intervals import SAMPLES_NEEDED
from ...numerics.metrics import ASSUMED
from ...quantization.search.search_result import SearchResult
from ...settings.making import SYNTHETIC
from ...speed.bench_result import CellResult
from ...speed.validity import INVALID
from ...storage.manifest import Manifest
from ..choice import speed
from ..gather import Report
from ..results import CURRENT, MISSING
from ..tables import columns, preparation
from ..tables.formatting import NONE, cpu_of, mebibytes
from ..tables.formatting import settings as options
from ..tables.table import Column, Table, figure
from ..text.benchmark import noise
from .cell_table import CELL, timed

LABELS_SHOWN = 12
SETTINGS = (
    CELL,
    *(timed(one) for one in (columns.THREADS, columns.STREAMS)),
    Column("options", lambda row: options({"options": row.bench.options}) or NONE),
    Column("from", lambda row: "tune" if row.bench.tuned else "asked for"),
)


def lead(manifest: Manifest) -> str:
    """The model in a line."""
    model = manifest.model
    facts = [f"{model['weights']} weights"]
    if model["classes"] is not None:
        facts.append(f"{model['classes']} classes")
    if manifest.preprocessing:
        size = preparation.size_of(Preprocessing.from_json(manifest.preprocessing))
        facts.append(f"{size} pixels")
    return ", ".join(facts)


def identity(report: Report) -> list[tuple[str, str]]:
    """What was exported, from what, and how."""
    manifest = report.manifest
    model, shape = manifest.model, manifest.preprocessing
    first = manifest.stage("export") or manifest.stage("import")
    trained = "" if model["trained"] else ", untrained"
    width = f" of width {model['width']:g}" if model.get("width") not in (None, 1) else ""
    simplified = "yes" if model["simplified"] else f"no: {model['not_simplified_because']}"
    facts = [
        ("Architecture", f"{model['architecture']}{width}, {model['parameters']:,} parameters"),
        ("Weights", f"{model['weights']}{trained}"),
        ("SHA-256 of the weights", str(model["weights_sha256"] or "none: they are random")),
        *(_images(model["batch"], shape) if shape else [("Inputs", _inputs(model))]),
        ("Labels", _labels(model["classes"], manifest.labels)),
        ("Exporter", f"{model['exporter']}, opset {model['opset']}"),
        ("Simplified", simplified),
        ("Variants", ", ".join(manifest.variants)),
    ]
    for title, part in (("Calibrated on", "calibration"), ("Goldens", "goldens")):
        if about := model.get(part):
            facts.append((title, f"{about['count']} images, {about['from']}"))
    whose = "torch's float32" if manifest.stage("export") else "the file's own float32"
    distance = first.result.get("reference_sqnr_db") if first else None
    if distance is not None:
        facts.append(("Reference", f"{whose}, {distance:.1f} dB from its own float64"))
    elif first and first.result.get("reference_state") == ASSUMED:
        facts.append(("Reference", f"{whose}; {first.result['reference']}"))
    return facts


def _images(batch: int | str, shape: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How an image becomes the input."""
    preprocessing = Preprocessing.from_json(shape)
    return [
        ("Input", f"{preparation.size_of(preprocessing)} pixels, batch {batch}"),
        ("Resize", preparation.resizing(preprocessing)),
        ("Normalization", preparation.normalization(preprocessing)),
        ("Fed as", preparation.tensor(preprocessing)),
    ]


def _inputs(model: Mapping[str, Any]) -> str:
    """The inputs of a model that takes no images."""
    inputs = (f"{one['name']} {one['dtype']} {one['shape']}" for one in model["inputs"])
    return f"{', '.join(inputs)}, batch {model['batch']}"


def artifacts(report: Report) -> Table:
    """The files with their digests."""
    rows = (
        (name, mebibytes(found.size, ".2f"), found.sha256)
        for name, found in report.manifest.artifacts.items()
    )
    heads = (Column("File"), figure("MiB"), Column("SHA-256"))
    return Table("Files of the workspace", heads, tuple(rows))


def reasons(report: Report) -> list[tuple[str, str]]:
    """What is to be said of a cell, by its name."""
    found = [("Times", note) for note in noise(report.bench.cells)] if report.bench else []
    for row in report.rows:
        name, timing, parity = row.name(" · "), row.bench, row.parity
        if timing and timing.reason:
            found.append((name, f"timing {timing.status}: {timing.reason}"))
        if timing and timing.verdict == INVALID:
            found.append((name, f"timing {timing.verdict}: {'; '.join(timing.notes)}"))
        if parity and parity.reason:
            found.append((name, f"parity {parity.verdict or parity.status}: {parity.reason}"))
    return found


def comparisons(report: Report) -> Table | None:
    """New times against the baseline's, if bench was given one."""
    rows = [row for row in report.rows if row.bench and row.bench.comparison]
    if not rows or report.bench is None:
        return None
    caption = f"Compared with {report.bench.baseline}"
    return Table.of([CELL, *map(timed, columns.AGAINST)], rows, caption).without(lambda _: "")


def settings(report: Report) -> Table | None:
    """The cells that don't run with the defaults."""
    rows = [
        row
        for row in report.rows
        if row.bench and row.bench.status == "ok" and (row.bench.tuned or row.bench.options)
    ]
    return Table.of(SETTINGS, rows, "Settings other than the defaults") if rows else None


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
        if source.state != CURRENT
        and (source.file, source.state) != (SearchResult.FILE, MISSING)  # nobody has to search
    ]
    goldens = report.manifest.model.get("goldens")
    if goldens and goldens["from"] == SYNTHETIC:
        lines.append("The goldens are noise: fidelity on photographs was not measured.")
    timed = [row.bench for row in report.rows if row.bench and speed(row.bench)]
    if report.bench and report.bench.quick:
        lines.append("The bench was a quick one: a few short slices, which prove little.")
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
            "SQNR and top-1 say how near the outputs are to the reference's, not how right that is."
        )
    return lines


def _percentiles(timed: Sequence[CellResult]) -> list[str]:
    """Which percentiles the samples don't carry."""
    lines = []
    for rank in (90, 99):
        known = [cell.latency_ms for cell in timed if cell.latency_ms]
        have = len(timed) - sum(getattr(one, f"p{rank}") is None for one in known)
        if have < len(timed):
            some = f"{have} of {len(timed)} cells" if have else "No cell"
            verb = "have" if have > 1 else "has"
            lines.append(f"{some} {verb} a p{rank}: that takes {SAMPLES_NEEDED[rank]} samples.")
    return lines


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
