"""What bench and tune found, as tables for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap

from rich.console import RenderableType

from ....runners.timing.plan import OFFLINE, SERVER, SINGLE_STREAM
from ...speed.regression import Comparison
from ...speed.rows import BenchResult, CellResult
from ...speed.tune import TuneResult
from .tables import WIDTH, ms, number, row_name, settings, table, text

MIB = 1 << 20
Column = tuple[str, Callable[[CellResult], str]]


def bench_table(result: BenchResult) -> str:
    """The cells of a bench with what qualifies them below."""
    measured = [cell for cell in result.cells if cell.status == "ok"]
    columns = _columns(result.scenario, measured)
    shown = table(*(title for title, _ in columns))
    for cell in measured:
        shown.add_row(*(show(cell) for _, show in columns))
    parts: list[RenderableType] = [shown] if measured else []
    if any(cell.comparison for cell in measured):
        parts += [f"  compared with {result.baseline}:", _comparisons(measured)]
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
    columns: list[Column] = [("variant", lambda cell: cell.variant)]
    columns += [("runner", lambda cell: cell.runner)]
    if any(cell.target != "local" for cell in cells):
        columns += [("target", lambda cell: cell.target)]
    columns += [("prec", lambda cell: cell.precision or "")]
    columns += [(">thr", lambda cell: str(cell.threads))]
    columns += {
        SINGLE_STREAM: _SINGLE_STREAM,
        OFFLINE: _OFFLINE,
        SERVER: _SERVER,
    }[scenario]
    if any(cell.energy_mj is not None for cell in cells):
        columns += [(">mJ", lambda cell: number(cell.energy_mj, ".1f"))]
    return [*columns, ("verdict", lambda cell: cell.verdict or "")]


def _p50(cell: CellResult) -> str:
    return ms(cell.latency_ms.p50) if cell.latency_ms else "–"


def _interval(cell: CellResult) -> str:
    if cell.latency_ms is None or cell.rounds < 2:
        return "–"
    low, high = cell.latency_ms.ci95
    return f"{ms(low)}–{ms(high)}"


def _percentile(rank: int) -> Callable[[CellResult], str]:
    def show(cell: CellResult) -> str:
        return ms(cell.latency_ms and getattr(cell.latency_ms, f"p{rank}"))

    return show


def _throughput_interval(cell: CellResult) -> str:
    if cell.throughput_ci95 is None or cell.rounds < 2:
        return "–"
    low, high = cell.throughput_ci95
    return f"{low:.1f}–{high:.1f}"


_SINGLE_STREAM: list[Column] = [
    (">p50", _p50),
    (">95 % interval", _interval),
    (">p90", _percentile(90)),
    (">x fp32", lambda cell: number(cell.speedup, ".2f")),
    (">load", lambda cell: number(cell.load_ms, ".0f")),
    (">cached", lambda cell: number(cell.load_cached_ms, ".0f")),
    (">RSS", lambda cell: number(cell.peak_rss_mib, ".0f")),
    (">MiB", lambda cell: f"{(cell.size_bytes or 0) / MIB:.1f}"),
]
_OFFLINE: list[Column] = [
    (">streams", lambda cell: str(cell.streams)),
    (">batch", lambda cell: str(cell.batch)),
    (">images/s", lambda cell: number(cell.throughput_per_s, ".1f")),
    (">95 % interval", _throughput_interval),
    (">x fp32", lambda cell: number(cell.speedup, ".2f")),
    (">RSS", lambda cell: number(cell.peak_rss_mib, ".0f")),
]
_SERVER: list[Column] = [
    (">streams", lambda cell: str(cell.streams)),
    (">rate", lambda cell: number(cell.rate, "g")),
    (">images/s", lambda cell: number(cell.throughput_per_s, ".1f")),
    (">p50", _p50),
    (">p90", _percentile(90)),
    (">p99", _percentile(99)),
    (">RSS", lambda cell: number(cell.peak_rss_mib, ".0f")),
]


def _comparisons(cells: Sequence[CellResult]) -> RenderableType:
    shown = table("variant", "runner", "target", ">x as slow", ">95 % interval", "verdict", "why")
    for cell in cells:
        if found := cell.comparison:
            shown.add_row(
                cell.variant,
                cell.runner,
                cell.target,
                number(found.ratio, ".3f"),
                "{:.3f}–{:.3f}".format(*found.ci95) if found.ci95 else "–",
                found.verdict,
                found.reason or _limit(found),
            )
    return shown


def _limit(found: Comparison) -> str:
    return f"at most {1 + found.max_slowdown:.3g}"


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
