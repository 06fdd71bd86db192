"""What bench and tune found, as tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.console import RenderableType

from ....runners.timing.plan import OFFLINE, SERVER, SINGLE_STREAM
from ...speed.bench_result import BenchResult, CellResult
from ...speed.tune import TuneResult
from . import columns
from .formatting import WIDTH, number, row_name, settings, table, text
from .table import Column, Table

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
COMPARED = (
    *(columns.VARIANT, columns.RUNNER, columns.TARGET, columns.RATIO, columns.RATIO_INTERVAL),
    *(columns.AGAINST_VERDICT, columns.AGAINST_WHY),
)


def bench_table(result: BenchResult) -> str:
    """The cells of a bench with what qualifies them below."""
    measured = [cell for cell in result.cells if cell.status == "ok"]
    shown = Table.of(_columns(result.scenario, measured), measured)
    parts: list[RenderableType] = [shown.text()] if measured else []
    if any(cell.comparison for cell in measured):
        compared = Table.of(COMPARED, [cell for cell in measured if cell.comparison])
        parts += [f"  compared with {result.baseline}:", compared.text()]
    parts += [*_notes(result.cells), *(f"  {problem}" for problem in result.problems)]
    return text(*parts, _host(result))


def tune_table(result: TuneResult) -> str:
    """What tune recommends for each cell, and why it doesn't for the others."""
    shown = table("variant", "runner", "target", "settings", ">default", ">tuned", "verdict")
    lines = []
    for cell in result.cells:
        name = "/".join(part for part in (cell.variant, cell.runner, cell.target) if part)
        if cell.status == "ok":
            shown.add_row(
                cell.variant,
                cell.runner,
                cell.target,
                settings(cell.settings) or "–",
                number(cell.default_ms, ".2f"),
                number(cell.tuned_ms, ".2f"),
                cell.verdict or "",
            )
        line = f"{name}: {cell.reason}" if cell.status == "ok" else f"{name}: {cell.status}: "
        line += "" if cell.status == "ok" else str(cell.reason)
        lines += wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")
    parts: list[RenderableType] = [shown] if shown.row_count else []
    about = f"  ms an image, {result.cells[0].scenario}; {result.seconds:.0f} s"
    return text(*parts, *lines, about)


def _columns(scenario: str, cells: Sequence[CellResult]) -> list[Column]:
    """What the scenario has to show, and only columns that tell cells apart or say something."""
    target = [columns.TARGET] if any(cell.target != "local" for cell in cells) else []
    energy = [columns.ENERGY] if any(cell.energy_mj is not None for cell in cells) else []
    place = [columns.VARIANT, columns.RUNNER, *target, columns.PRECISION, columns.THREADS]
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
