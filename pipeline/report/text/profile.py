"""A profile as tables and lines: the same for a terminal, a page and Markdown."""

from __future__ import annotations

from ...profiling.profile_result import LayerTime, Peak, ProfileResult, cost_of_float
from ..tables import formatting
from ..tables.formatting import ms, number, shortened
from ..tables.table import Column, Table, figure

LAYERS_SHOWN = 10
FLOATS_SHOWN = 8
# Names of layers can be long; the figures beside them are what the table is for.
NAME_WIDTH = 28


def text(result: ProfileResult) -> str:
    """The cell, its operators, its costliest layers, and what is to be said of them."""
    more = len(result.layers) - LAYERS_SHOWN
    lines = remarks(result)
    lines += [f"and {more} cheaper layers, see {result.FILE}"] if more > 0 else []
    tables = [operators(result).text(), layers(result).text()]
    heads = [headline(result), f"  {duration(result)}"]
    return formatting.text(*heads, *tables, *(f"  {line}" for line in lines))


def headline(result: ProfileResult) -> str:
    """Which cell it is, with its settings, and why it is this one."""
    cell = result.cell
    place = "" if cell.target == "local" else f" on {cell.target}"
    options = f", {formatting.settings(cell.options)}" if cell.options else ""
    chosen = f" ({cell.chosen})" if cell.chosen else ""
    return (
        f"{cell.variant} / {cell.runner}{place} {cell.precision}, batch {cell.batch}, "
        f"threads {cell.threads}{options}{chosen}"
    )


def duration(result: ProfileResult) -> str:
    """How long a run takes, what the profiler costs, and what the nodes account for."""
    return (
        f"{ms(result.wall_us / 1e3)} ms a run, "
        f"{ms(result.profiled_us / 1e3)} with the profiler on ({result.overhead:+.0%}), of which "
        f"nodes account for {result.covered:.0%}; {result.statistic} of {result.runs} runs "
        f"in {result.rounds} {'process' if result.rounds == 1 else 'processes'}"
    )


def remarks(result: ProfileResult) -> list[str]:
    """What is to be said of the tables."""
    estimates = formatting.estimates({result.cell.target: result.host}, [result.cell])
    return [*between(result), *peaks(result), *result.notes, *estimates]


def operators(result: ProfileResult) -> Table:
    """The time of each operator in each precision."""
    heads = (
        Column("operator", lambda one: one.operator),
        Column("precision", lambda one: one.precision),
        figure("nodes", lambda one: str(one.nodes)),
        figure("µs a run", lambda one: _us(one.us), "µs"),
        figure("share", lambda one: f"{one.share:.1%}"),
    )
    return Table.of(heads, result.operators, "By operator")


def layers(result: ProfileResult, count: int = LAYERS_SHOWN) -> Table:
    """The costliest layers, named as ``parity --explain`` names them."""
    found = result.costliest[:count]
    heads = (
        Column("layer", lambda one: shortened(one.layer, NAME_WIDTH)),
        Column("operators", lambda one: shortened(one.operators, NAME_WIDTH)),
        Column("precision", lambda one: one.precision),
        figure("µs a run", lambda one: _us(one.us), brief="µs"),
        figure("conversions, µs", _converted, brief="conv."),
        figure("share", lambda one: f"{one.share:.1%}"),
        figure("GMAC/s", lambda one: number(one.gmacs_per_s, ".1f")),
        figure("of the peak", lambda one: number(one.peak_share, ".0%"), brief="of peak"),
        Column("kernel", lambda one: one.kernel),
    )
    title = f"The {len(found)} costliest of {len(result.layers)} layers"
    return Table.of(heads, found, title)


def between(result: ProfileResult) -> list[str]:
    """The layers that run in float between int8 ones, with what they cost."""
    if not any(layer.precision == "int8" for layer in result.layers):
        return []
    found = result.between_int8
    if not found:
        return ["no layer runs in float between int8 ones"]
    whole = sum(node.us for node in result.nodes) or 1.0
    lines = [
        f"in {one.precision} between int8 layers: {one.layer} ({one.operators}), "
        f"{_us(one.us)} µs and {_us(one.around_us or 0.0)} µs of conversions around it, "
        f"{cost_of_float(one) / whole:.1%} of all"
        for one in found[:FLOATS_SHOWN]
    ]
    if rest := found[FLOATS_SHOWN:]:
        share = sum(map(cost_of_float, rest)) / whole
        lines.append(f"and {len(rest)} more of them, {share:.1%} of all, see {result.FILE}")
    return lines


def peaks(result: ProfileResult) -> list[str]:
    """What the peaks are, and on which unit."""
    lines = [_peak(one) for one in result.peaks]
    above = [one for one in result.layers if one.peak_share is not None and one.peak_share > 1]
    if above:
        lines.append(
            f"{len(above)} layers, {above[0].layer} first, ran faster than that: the machine was "
            "slower when its peak was measured, or has a better kernel for them"
        )
    return lines


def _peak(one: Peak) -> str:
    unit = f"{one.kernel_unit} by its kernel's name, " if one.kernel_unit else ""
    has = f"the CPU has {one.cpu_unit}" if one.cpu_unit else "the CPU shows no vector unit"
    return (
        f"peak {one.precision}: {one.gmacs_per_s:.1f} GMAC/s, the best of {one.runs} runs "
        f"({one.shape}, {one.kernel}): {unit}{has}"
    )


def _converted(layer: LayerTime) -> str | None:
    return _us(layer.conversion_us) if layer.conversion_us else None


def _us(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
