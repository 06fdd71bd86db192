"""What bench found, as tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.console import RenderableType

from ....runners.timing.plan import OFFLINE, SERVER, SINGLE_STREAM
from ...speed.bench_result import BenchResult, CellResult
from ..tables import columns
from ..tables.columns import AGAINST, RUNNER, TARGET, VARIANT
from ..tables.formatting import WIDTH, row_name, text
from ..tables.table import Column, Table

SHOWN = {
    SINGLE_STREAM: (
        *(columns.P50, columns.LATENCY_INTERVAL, columns.P90, columns.SPEEDUP),
        *(columns.LOAD, columns.CACHED, columns.RSS, columns.SIZE),
    ),
    OFFLINE: (
        *(columns.STREAMS, columns.BATCH, columns.THROUGHPUT, columns.THROUGHPUT_INTERVAL),
        *(columns.SPEEDUP, columns.RSS),
    ),
    SERVER: (
        *(columns.STREAMS, columns.RATE, columns.THROUGHPUT),
        *(columns.P50, columns.P90, columns.P99, columns.RSS),
    ),
}


def bench_table(result: BenchResult) -> str:
    """The cells of a bench with what qualifies them below."""
    measured = [cell for cell in result.cells if cell.status == "ok"]
    shown = Table.of(_columns(result.scenario, measured), measured)
    parts: list[RenderableType] = [shown.text()] if measured else []
    if any(cell.comparison for cell in measured):
        rows = [cell for cell in measured if cell.comparison]
        compared = Table.of((VARIANT, RUNNER, TARGET, *AGAINST), rows).without(lambda _: "")
        parts += [f"  compared with {result.baseline}:", compared.text()]
    parts += [*_notes(result.cells), *(f"  {problem}" for problem in result.problems)]
    return text(*parts, _host(result))


def _columns(scenario: str, cells: Sequence[CellResult]) -> list[Column]:
    """What the scenario has to show, and only columns that tell cells apart or say something."""
    target = [TARGET] if any(cell.target != "local" for cell in cells) else []
    energy = [columns.ENERGY] if any(cell.energy_mj is not None for cell in cells) else []
    place = [VARIANT, RUNNER, *target, columns.PRECISION, columns.THREADS]
    return [*place, *SHOWN[scenario], *energy, columns.VERDICT]


def _notes(cells: Sequence[CellResult]) -> list[str]:
    """What a reader must know: what holds for all cells, then a line for each other cell."""
    measured = [cell for cell in cells if cell.status == "ok"]
    common = [
        note
        for note in (measured[0].notes if measured else ())
        if all(note in cell.notes for cell in measured)
    ]
    lines = [f"  {note}" for note in common]
    for cell in measured:
        own = [note for note in cell.notes if note not in common]
        if own:
            line = f"{row_name(cell, measured)}: {'; '.join(own)}"
            lines += wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")
    absent: dict[str, list[str]] = {}
    for cell in cells:
        if cell.status != "ok":
            failed = cell.status == "failed"
            name = f"{cell.variant}/{cell.runner} {cell.precision}" if failed else cell.runner
            name += f" on {cell.target}" if cell.target not in ("", "local") else ""
            names = absent.setdefault(f"{cell.status}: {cell.reason}", [])
            if name not in names:
                names.append(name)
    lines += [f"  {', '.join(names)}: {reason}" for reason, names in absent.items()]
    return lines


def _settings(cells: Sequence[CellResult]) -> list[str]:
    """The cells that run with settings of their own."""
    lines = []
    for cell in cells:
        if cell.status == "ok" and (cell.tuned or cell.options):
            options = "".join(f", {name} {value}" for name, value in cell.options.items())
            origin = "tuned: " if cell.tuned else ""
            lines.append(
                f"{row_name(cell, cells)}: {origin}{cell.threads} threads, "
                f"{cell.streams} streams{options}"
            )
    return lines


def _host(result: BenchResult) -> str:
    if not result.hosts:
        return ""
    versions = {
        f"{cell.runner} {cell.runner_version}" for cell in result.cells if cell.runner_version
    }
    batches = sorted({cell.batch for cell in result.cells if cell.batch})
    lines = [
        f"{result.model['name']} ({result.model['weights']} weights), "
        f"batch {', '.join(map(str, batches))}; times in ms, RSS and size in MiB"
    ]
    lines += _settings(result.cells)
    for target, host in result.hosts.items():
        place = f"{target}: " if len(result.hosts) > 1 or target != "local" else ""
        flags = ", ".join(flag.upper() for flag in host["cpu_flags"] if flag != "fma")
        machine = " in a virtual machine" if host["virtual_machine"] else ""
        line = f"{place}{host['cpu']}{machine}, {host['physical_cores']} cores, {flags}"
        lines += wrap(line, WIDTH - 2, subsequent_indent="  ")
        if host["no_energy"]:
            lines.append(f"{place}energy not measured: {host['no_energy']}")
    lines.append(", ".join(sorted(versions)))
    return "\n".join(f"  {line}" for line in lines)
