"""What bench found, as tables for a terminal of 100 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap

from rich.console import RenderableType

from ....runners.timing.plan import COLD, OFFLINE, SERVER, SINGLE_STREAM
from ...numerics.ratios import MARGIN, SAME, UNDECIDED
from ...speed.bench_result import BenchResult, CellResult
from ...speed.ranking import Pick, cost, nearer, pick
from ...speed.validity import INVALID
from ..tables import columns
from ..tables.columns import AGAINST, RUNNER, TARGET, VARIANT
from ..tables.formatting import WIDTH, cpu_of, interval, row_name, source_of, text
from ..tables.table import Column, Table

ONE_BY_ONE = (
    *(columns.P50, columns.LATENCY_INTERVAL, columns.P90),
    *(columns.LOAD, columns.RSS, columns.SIZE),
)
SHOWN = {
    SINGLE_STREAM: ONE_BY_ONE,
    COLD: ONE_BY_ONE,
    OFFLINE: (
        *(columns.STREAMS, columns.BATCH, columns.THROUGHPUT, columns.THROUGHPUT_INTERVAL),
        columns.RSS,
    ),
    SERVER: (
        *(columns.STREAMS, columns.RATE, columns.THROUGHPUT),
        *(columns.P50, columns.P90, columns.P99, columns.RSS),
    ),
}
ON_DEVICE = "a run goes from host memory to host memory; on device: one that copies nothing"
# More rows than this are counted and not named.
FEW = 3
FIGURE = re.compile(r"[-+]?\d+(?:\.\d+)?")
MORE = "more --generations, or --threads 1, which is several times steadier,"


def bench_table(result: BenchResult) -> str:
    """The cells of a bench, the fastest first, with what qualifies them and what to ship below."""
    measured = sorted((cell for cell in result.cells if cell.status == "ok"), key=cost)
    shown = Table.of(_columns(result, measured), measured)
    parts: list[RenderableType] = [shown.text()] if measured else []
    if any(cell.comparison for cell in measured):
        rows = [cell for cell in measured if cell.comparison]
        compared = Table.of((*_place(rows), *AGAINST), rows).without(lambda _: "")
        parts += [f"  compared with {result.baseline}:", compared.text()]
    parts += [*_notes(result.cells), *(f"  {problem}" for problem in result.problems)]
    return text(*parts, _host(result), *_advice(result))


def advantage(row: CellResult, reference: str) -> str:
    """How a cell compares with its reference: "2.41 [2.33–2.50] times as fast as fp32"."""
    relative = row.against_reference
    if relative is None:
        return ""
    known = row.speedup_ci95
    speedup = f"{row.speedup:.2f}" + (f" [{interval(known, '{:.2f}'.format)}]" if known else "")
    if relative == SAME:
        return f"as fast as {reference}, within {MARGIN:.0%}: {speedup}"
    doubt = ", undecided" if relative == UNDECIDED else ""
    return f"{speedup} times as fast as {reference}{doubt}"


def why_this(found: Pick, rows: Sequence[CellResult]) -> str:
    """Why it is this one of those that are equally fast; empty where nothing is."""
    others = found.as_fast
    if not others:
        return ""
    names = ", ".join(row_name(other, rows) for other in others)
    faithful = all(nearer(found.row.sqnr_db, row.sqnr_db) for row in others)
    why = "is more faithful" if faithful else "is as faithful and not larger"
    verb = "is" if len(others) == 1 else "are"
    return f"{names} {verb} as fast within {MARGIN:.0%}, this one {why}"


def _advice(result: BenchResult) -> list[str]:
    """What to ship of each target, in a sentence each."""
    lines = []
    good = [row for row in result.cells if row.status == "ok" and row.verdict != INVALID]
    if result.scenario == SERVER or result.quick:
        return []
    for target in dict.fromkeys(row.target for row in good):
        rows = [row for row in good if row.target == target]
        found = pick(result, rows)
        where = "" if target == "local" else f"On {target}: "
        line = f"{where}Ship {row_name(found.row, rows)}"
        parts = [
            part for part in (advantage(found.row, result.reference), why_this(found, rows)) if part
        ]
        if found.undecided:
            names = ", ".join(row_name(row, rows) for row in found.undecided)
            parts.append(f"not told apart from {names}: {MORE} would")
        line += f": {'; '.join(parts)}" if parts else ""
        lines += wrap(f"{line}. Its outputs are for `edgepipe parity` to judge.", WIDTH)
    return ["", *lines] if lines else []


def _columns(result: BenchResult, cells: Sequence[CellResult]) -> list[Column]:
    """What the scenario has to show, and only columns that tell cells apart or say something."""
    relative = [columns.speedup(result.reference), columns.SPEEDUP_INTERVAL, columns.RELATIVE]
    if not any(cell.speedup for cell in cells):
        relative = []
    resident = [columns.ON_DEVICE] if any(cell.on_device_ms for cell in cells) else []
    resident += [columns.BUILD] if any(cell.build_ms for cell in cells) else []
    energy = [columns.ENERGY] if any(cell.energy_mj is not None for cell in cells) else []
    shown = [*SHOWN[result.scenario], *resident, *energy]
    return [*_place(cells), *relative, *shown, columns.TIMES]


def _place(cells: Sequence[CellResult]) -> list[Column]:
    telling = {"target": TARGET, "precision": columns.PRECISION, "threads": columns.THREADS}
    found = [column for name, column in telling.items() if _varies(name, cells)]
    return [VARIANT, RUNNER, *found]


def _varies(name: str, cells: Sequence[CellResult]) -> bool:
    usual = {"target": "local", "precision": "f32"}.get(name)
    return len({getattr(cell, name) for cell in cells} | ({usual} if usual else set())) > 1


def noise(cells: Sequence[CellResult]) -> list[str]:
    """What is to be said of the times: once, whatever its figures are in each row."""
    measured = [cell for cell in cells if cell.status == "ok"]
    said: dict[str, list[tuple[CellResult, str]]] = {}
    for cell in measured:
        for note in cell.notes:
            said.setdefault(FIGURE.sub("#", note), []).append((cell, note))
    lines = []
    for found in said.values():
        names = ", ".join(row_name(cell, measured) for cell, _ in found)
        who = f"{len(found)} of {len(measured)} rows" if len(found) > FEW else names
        some = f" ({who})" if len(found) < len(measured) else ""
        lines.append(f"{_merged([note for _, note in found])}{some}")
    return lines


def _notes(cells: Sequence[CellResult]) -> list[str]:
    """What a reader must know of the times, and why cells have none."""
    lines = []
    for note in noise(cells):
        lines += wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ")
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


def _merged(notes: Sequence[str]) -> str:
    """Notes that differ in their figures only, as one: "generations differ by 12 to 93%"."""
    figures = [FIGURE.findall(note) for note in notes]
    ranges = []
    for column in zip(*figures, strict=True):
        ordered = sorted(column, key=float)
        same = ordered[0] == ordered[-1]
        ranges.append(ordered[0] if same else f"{ordered[0]} to {ordered[-1]}")
    given = iter(ranges)
    return FIGURE.sub(lambda _: next(given), notes[0])


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


def _threads(result: BenchResult) -> str:
    counts = {cell.threads for cell in result.cells if cell.status == "ok"}
    return f", {counts.pop()} threads" if len(counts) == 1 else ""


def _host(result: BenchResult) -> str:
    if not result.hosts:
        return ""
    versions = {
        f"{cell.runner} {cell.runner_version}" for cell in result.cells if cell.runner_version
    }
    batches = sorted({cell.batch for cell in result.cells if cell.batch})
    ran = f", batch {', '.join(map(str, batches))}{_threads(result)}" if batches else ""
    about = f"{result.model['name']} ({source_of(result.model)})"
    lines = [f"{about}{ran}; times in ms, RSS and size in MiB"]
    if any(cell.on_device_ms for cell in result.cells):
        lines.append(ON_DEVICE)
    lines += _settings(result.cells)
    for target, host in result.hosts.items():
        place = f"{target}: " if len(result.hosts) > 1 or target != "local" else ""
        flags = ", ".join(flag.upper() for flag in host["cpu_flags"] if flag != "fma")
        machine = " in a virtual machine" if host["virtual_machine"] else ""
        line = f"{place}{cpu_of(host)}{machine}, {host['physical_cores']} cores, {flags}"
        lines += wrap(line, WIDTH - 2, subsequent_indent="  ")
        if host["no_energy"]:
            lines.append(f"{place}energy not measured: {host['no_energy']}")
    if versions:
        lines.append(", ".join(sorted(versions)))
    return "\n".join(f"  {line}" for line in lines)
