"""The plots of a report, as SVG. Equal data gives equal bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...judging.explanation import Explanation
from ...numerics.metrics import BROKEN
from ...speed.validity import INVALID, MAX_SPREAD
from ...verdicts import PASS
from ..choice import Speed, speed
from ..gather import Row
from ..tables.formatting import ms
from .annotations import Point, log_ruler, place_labels
from .inline_svg import BAD, BAND, INK, QUIET, SERIES, SURFACE, VARIABLES, figure_of

# Width of the drawing in CSS pixels, on a desk and on a phone; one unit of the SVG is one pixel.
WIDE, NARROW = 880, 348
LARGEST_DISC = 240.0  # its area, in square points
# Largest ratio of latencies that a linear axis shows well.
LINEAR_RANGE = 4.0


def tradeoff(rows: Sequence[Row], width: int) -> str | None:
    """Speed against SQNR, a disc for each cell whose area is the file's size."""
    points = [(row, found) for row in rows if (found := speed(row.bench)) and drawn(row)]
    if not points:
        return None
    offline = points[0][1].offline
    colors = _colors(rows)
    with figure_of(width, 400 if width == WIDE else 360) as (figure, finish):
        axes = figure.add_subplot()
        notes = _limits(axes, rows, [found for _, found in points])
        area = LARGEST_DISC / max(_size(row) for row, _ in points)
        marks = [_point(axes, row, found, colors[row.runner], area) for row, found in points]
        axes.set_xlabel("images per second, more is better" if offline else "p50 latency, ms")
        axes.set_ylabel("SQNR against the reference, dB")
        labels = [
            (row.name(" · "), colors[row.runner], *mark)
            for (row, _), mark in zip(points, marks, strict=True)
        ]
        bars = [
            ((found.low or found.value, height), (found.high or found.value, height))
            for (_, found), (_, height) in zip(points, marks, strict=True)
        ]
        place_labels(axes, labels, bars, notes)
        described = "; ".join(
            f"{row.name()}: {found}, SQNR {_height(row):.1f} dB" for row, found in points
        )
        return finish("tradeoff", f"Speed against fidelity. {described}")


def distributions(rows: Sequence[Row], width: int) -> str | None:
    """Each generation of each cell as a row: median, quartiles, 5 % to 95 %, and what lies outside.

    Times are relative to the cell's own median, so that all cells share one ruler.
    """
    shown = [row for row in rows if row.generations and row.bench]
    if not shown:
        return None
    step = 9.0  # pixels for a generation
    heads = [
        sum(len(row.generations) for row in shown[:place]) + 3.2 * place
        for place in range(len(shown))
    ]
    total = heads[-1] + len(shown[-1].generations) + 3
    colors = _colors(rows)
    with figure_of(width, int(total * step) + 56) as (figure, finish):
        axes = figure.add_subplot()
        lowest, highest = _span(shown)
        axes.set_xscale("log")
        axes.set_xlim(lowest, highest)
        axes.set_ylim(total - 0.5, -1)
        axes.axvspan(1 - MAX_SPREAD, 1 + MAX_SPREAD, color=BAND, linewidth=0)
        axes.axvline(1, color=QUIET, linewidth=1)
        ticks = _ticks(lowest, highest, width)
        axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("time of a run ÷ the cell's own p50")
        for row, top in zip(shown, heads, strict=True):
            _generations(axes, row, top, colors[row.runner], pixels=width)
        described = "; ".join(f"{row.name()}: {_spoken(row)}" for row in shown)
        return finish("distributions", f"Distribution of latencies by generation. {described}")


def layers(cells: Sequence[Explanation], width: int) -> str | None:
    """Each layer's SQNR in the order of the graph: what has piled up, and its own."""
    shown = [
        cell
        for cell in cells
        if any(layer.sqnr_db is not None or layer.state == BROKEN for layer in cell.layers)
    ]
    if not shown:
        return None
    with figure_of(width, 40 + 190 * len(shown)) as (figure, finish):
        panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, cell in zip(panels, shown, strict=True):
            _layers(axes, cell)
        panels[-1].set_xlabel("layers, in the order of the graph")
        described = "; ".join(
            f"{cell.variant} on {cell.runner}: worst at {cell.layer}" for cell in shown
        )
        return finish("layers", f"SQNR by layer. {described}")


def _point(axes: Any, row: Row, found: Speed, color: str, area: float) -> Point:
    """A cell's disc with its interval: filled if both verdicts hold, hollow if not.

    ``area`` is that of a byte, in square points.
    """
    assert row.bench
    height = _height(row)
    assert height is not None
    holds = row.bench.verdict != INVALID and row.parity is not None and row.parity.verdict == PASS
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [height] * 2, color=color, linewidth=2, alpha=0.8)
    axes.scatter(
        [found.value],
        [height],
        s=area * _size(row),
        facecolor=color if holds else SURFACE,
        edgecolor=color,
        linewidth=1.5,
        linestyle="solid" if holds else (0, (2, 1.5)),
        alpha=0.85 if holds else 1,
        zorder=3,
    )
    return found.value, height


def _limits(axes: Any, rows: Sequence[Row], speeds: Sequence[Speed]) -> list[Any]:
    """Room for the labels, a log scale where the range asks for it, the gates as lines.

    Returns the texts beside the lines.
    """
    least = min(found.low or found.value for found in speeds)
    most = max(found.high or found.value for found in speeds)
    if most > LINEAR_RANGE * least:
        log_ruler(axes, least, most)
    else:
        axes.set_xlim(0, most * 1.3)
    heights = [height for row in rows if (height := _height(row)) is not None]
    axes.set_ylim(min(0.0, *heights) - 5, max(heights) + 18)
    gates: dict[float, list[str]] = {}
    for row in rows:
        limit = row.parity.gate.get("min_sqnr_db") if row.parity and row.bench else None
        if limit is not None:
            names = gates.setdefault(round(limit, 1), [])
            if row.variant not in names:
                names.append(row.variant)
    notes = []
    for limit, names in gates.items():
        axes.axhline(limit, color=QUIET, linewidth=1, linestyle=(0, (1, 3)))
        note = axes.annotate(
            f"least for {', '.join(names)}",
            (1, limit),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=10,
            color=QUIET,
        )
        notes.append(note)
    return notes


# Where the ruler may have a number, the most wanted first.
_RATIOS = (1, 2, 0.5, 1.5, 1.1, 0.9, 5, 3, 1.2, 0.8, 10, 20, 0.7, 0.6, 0.25, 50, 100)


def _ticks(lowest: float, highest: float, width: int) -> list[float]:
    """The numbers of the ruler that don't touch each other."""
    pixels = width / math.log(highest / lowest)
    ticks: list[float] = []
    for ratio in _RATIOS:
        apart = all(abs(math.log(ratio / tick)) * pixels > 42 for tick in ticks)
        if lowest <= ratio <= highest and apart:
            ticks.append(ratio)
    return ticks


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    ratios = [np.concatenate(row.generations) / _p50(row) for row in rows]
    lowest = min(float(one.min()) for one in ratios)
    highest = max(float(one.max()) for one in ratios)
    return min(0.85, lowest * 0.98), max(1.25, highest * 1.04)


def _p50(row: Row) -> float:
    """As bench has it; offline, where it has none, of all samples."""
    found = row.bench and row.bench.latency_ms
    return found.p50 if found else float(np.median(np.concatenate(row.generations)))


def _generations(axes: Any, row: Row, top: float, color: str, pixels: int) -> None:
    everything = np.concatenate(row.generations)
    middle = _p50(row)
    assert row.bench
    runs = f"p50 {ms(middle)} ms, {len(everything):,} runs, {row.bench.verdict}"
    for text, place, side, shade in ((row.name(" · "), 0, "left", INK), (runs, 1, "right", QUIET)):
        axes.annotate(
            text,
            (place, top),
            xycoords=("axes fraction", "data"),
            fontsize=11,
            va="center",
            ha=side,
            color=shade,
        )
    low, high = np.log(axes.get_xlim())
    heights = [top + 1.2 + number for number in range(len(row.generations))]
    ratios = [samples / middle for samples in row.generations]
    least, first, half, third, most = np.transpose(
        [np.percentile(one, (5, 25, 50, 75, 95)) for one in ratios]
    )
    axes.hlines(heights, least, most, color=color, linewidth=1, alpha=0.7)
    axes.hlines(heights, first, third, color=color, linewidth=4, alpha=0.7)
    axes.plot(half, heights, "|", color=INK, markersize=7, markeredgewidth=1.6)
    dots: list[tuple[float, float]] = []
    for height, one, start, end in zip(heights, ratios, least, most, strict=True):
        outside = np.log(one[(one < start) | (one > end)])
        # Dots that fall on the same pixel are drawn once.
        columns = np.unique(np.round((outside - low) / (high - low) * pixels))
        dots += [(place, height) for place in np.exp(columns / pixels * (high - low) + low)]
    axes.plot(*np.transpose(dots), ".", color=color, markersize=2.5, alpha=0.8)


def _spoken(row: Row) -> str:
    everything = np.concatenate(row.generations)
    middle, late = np.percentile(everything, (50, 95))
    return f"{len(row.generations)} generations, median {middle:.3g} ms, 95 % below {late:.3g} ms"


def _layers(axes: Any, cell: Explanation) -> None:
    by_tensor = {layer.tensor: layer for layer in cell.layers}
    ordered = [by_tensor[tensor] for tensor in cell.order if tensor in by_tensor]
    places = {layer.tensor: place for place, layer in enumerate(ordered)}
    so_far = [math.nan if layer.sqnr_db is None else layer.sqnr_db for layer in ordered]
    own = [math.nan if layer.own_sqnr_db is None else layer.own_sqnr_db for layer in ordered]
    axes.plot(so_far, color=SERIES[0], linewidth=1.5)
    axes.plot(own, ".", color=SERIES[1], markersize=6)
    broken = [places[layer.tensor] for layer in ordered if layer.state == BROKEN]
    bottom = axes.get_ylim()[0]
    axes.plot(broken, [bottom] * len(broken), "x", color=BAD, markersize=7, markeredgewidth=1.6)
    place = "" if cell.target == "local" else f" at {cell.target}"
    axes.set_title(f"{cell.variant} · {cell.runner}{place}", loc="left", fontsize=12)
    axes.set_ylabel("SQNR, dB")
    axes.set_xticks([])
    axes.margins(x=0.02, y=0.25)
    for layer in [layer for layer in cell.layers if layer.own_sqnr_db is not None][:1]:
        axes.annotate(
            layer.layer,
            (places[layer.tensor], layer.own_sqnr_db or 0.0),
            xytext=(0, -7),
            textcoords="offset points",
            va="top",
            ha="left" if places[layer.tensor] < len(ordered) / 2 else "right",
            fontsize=10,
            bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1, "alpha": 0.85},
            zorder=4,
        )


def _colors(rows: Sequence[Row]) -> dict[str, str]:
    """A colour for each runner, in the order of their names."""
    names = sorted({row.runner for row in rows})
    return {name: SERIES[number % len(SERIES)] for number, name in enumerate(names)}


def _size(row: Row) -> int:
    """Bytes of the cell's file; every row of bench that was measured has them."""
    return (row.bench.size_bytes if row.bench else None) or 1


def drawn(row: Row) -> bool:
    """Whether a cell has its place in ``tradeoff``."""
    return speed(row.bench) is not None and _height(row) is not None


def runner_colors(rows: Sequence[Row]) -> dict[str, str]:
    """The CSS variable of each runner that was timed, for a legend."""
    timed = {row.runner for row in rows if speed(row.bench)}
    return {
        name: f"var({VARIABLES[color]})" for name, color in _colors(rows).items() if name in timed
    }


def _height(row: Row) -> float | None:
    """The SQNR that a point is drawn at: parity's, or of the few outputs that bench checks."""
    judge = row.parity or row.bench
    return judge.sqnr_db if judge else None
