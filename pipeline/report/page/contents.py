"""What a report says, as tables and lines: the same for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....runners.targets import estimate
from ...numerics.intervals import SAMPLES_NEEDED
from ...quantization.search.search_result import SearchResult
from ...settings.making import SYNTHETIC
from ...speed.bench_result import CellResult
from ...speed.validity import INVALID
from ..choice import speed
from ..gather import Report
from ..results import CURRENT, MISSING
from ..tables import columns
from ..tables.formatting import NONE, cpu_of, mebibytes
from ..tables.formatting import settings as options
from ..tables.table import Column, Table, figure
from ..text.benchmark import noise
from .cell_table import CELL, timed

SETTINGS = (
    CELL,
    *(timed(one) for one in (columns.THREADS, columns.STREAMS)),
    Column("options", lambda row: options({"options": row.bench.options}) or NONE),
    Column("from", lambda row: "tune" if row.bench.tuned else "asked for"),
)


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
    used_by = report.manifest.made_by.removeprefix("edgepipe ")
    rows = [(name, version or "absent", used_by) for name, version in report.manifest.tools.items()]
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


def _listing(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
