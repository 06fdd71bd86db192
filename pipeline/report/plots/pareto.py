"""Published accuracy against measured time: which model to take.

A panel holds what may be compared: one runner on one target, in one precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...speed.validity import VALID
from ..tables.formatting import MIB, ms
from .annotations import Point, log_ruler, place_labels
from .inline_svg import QUIET, SERIES, SURFACE, VARIABLES, figure_of

if TYPE_CHECKING:
    from ...speed.comparison.candidates import Candidate, Speed

    Drawn = tuple[Candidate, Speed, Point]

# The area of the largest file's disc, in square points, for each pixel of the panel's width.
AREA = 0.9
PANEL, MARGIN = 330, 30  # heights in pixels


@dataclass(frozen=True)
class Palette:
    """Colours: of variants by name and of any ``other``, of lines and names, of the ground."""

    variants: Mapping[str, str]
    other: str
    quiet: str
    ground: str

    def of(self, variant: str) -> str:
        """A variant's colour."""
        return self.variants.get(variant, self.other)


ON_WHITE = Palette({"fp32": "#1f6feb", "int8": "#bc4c00"}, "#8250df", "#57606a", "#ffffff")
# A page's own, light or dark.
IN_PAGE = Palette({"fp32": SERIES[0], "int8": SERIES[1]}, SERIES[3], QUIET, SURFACE)


def pareto(models: Sequence[Candidate], width: int) -> str | None:
    """The plot as SVG for a page, ``width`` pixels wide; ``None`` if there is nothing to draw."""
    panels = panels_of(models)
    if not panels:
        return None
    with figure_of(width, MARGIN + PANEL * len(panels)) as (figure, finish):
        draw(figure, models, IN_PAGE)
        described = "; ".join(
            f"{row.model} {speed.variant} on {title}: p50 {ms(x)} ms, top-1 {y:.1f} %"
            for title, points in panels.items()
            for row, speed, (x, y) in points
        )
        return finish("pareto", f"Accuracy against latency. {described}")


def draw(figure: Any, models: Sequence[Candidate], palette: Palette) -> None:
    """Fill a figure with the panels, one below the other."""
    panels = panels_of(models)
    if not panels:
        return
    figure.get_layout_engine().set(h_pad=0.1)
    places = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (title, points) in zip(places, panels.items(), strict=True):
        _panel(axes, points, palette)
        axes.set_title(title, loc="left", fontsize=12)
    places[-1].set_xlabel("p50 latency, ms")
    for axes, points in zip(places, panels.values(), strict=True):
        _names(axes, points, palette)


def panels_of(models: Sequence[Candidate]) -> dict[str, list[Drawn]]:
    """What has a time and a published accuracy (ms and per cent), by the titles of the panels.

    The precision is told where a runner was measured in several, a target that isn't this machine.
    """
    drawn = [
        (row, speed, (speed.p50_ms, row.published_top1))
        for row in models
        for speed in row.speeds
        if speed.p50_ms and row.published_top1
    ]
    conditions = {(speed.runner, speed.precision) for _, speed, _ in drawn}
    several = Counter(runner for runner, _ in conditions)
    panels: dict[str, list[Drawn]] = {}
    for row, speed, point in drawn:
        title = speed.runner
        if several[speed.runner] > 1:
            title += f" in {speed.precision}"
        if speed.target != "local":
            title += f" at {speed.target}"
        panels.setdefault(title, []).append((row, speed, point))
    return panels


def colors_of(models: Sequence[Candidate], palette: Palette) -> list[tuple[str, str]]:
    """Each variant that is drawn with its colour, for a legend."""
    variants = {speed.variant for points in panels_of(models).values() for _, speed, _ in points}
    return [(name, palette.of(name)) for name in sorted(variants)]


def legend_in_page(models: Sequence[Candidate]) -> dict[str, str]:
    """The CSS variable of each variant that is drawn."""
    colors = colors_of(models, IN_PAGE)
    return {name: f"var({VARIABLES[color]})" for name, color in colors}


def _panel(axes: Any, points: Sequence[Drawn], palette: Palette) -> None:
    times = [x for _, _, (x, _) in points]
    log_ruler(axes, min(times), max(times))
    axes.set_ylabel("ImageNet top-1, %")
    axes.margins(y=0.2)
    axes.grid(visible=True, alpha=0.3)
    if front := _front(points):
        style = {"color": palette.quiet, "linewidth": 1.2, "linestyle": (0, (1, 2))}
        axes.plot(*zip(*front, strict=True), drawstyle="steps-post", **style)
    for left, right in _bars(points):
        axes.plot(*zip(left, right, strict=True), color=palette.quiet, linewidth=0.7, alpha=0.6)
    pixels = axes.figure.get_figwidth() * 72
    largest = max(_size(row, speed) for row, speed, _ in points)
    for row, speed, (x, y) in points:
        holds, color = speed.verdict == VALID, palette.of(speed.variant)
        axes.scatter(
            [x],
            [y],
            s=AREA * pixels * _size(row, speed) / largest,
            facecolor=color if holds else palette.ground,
            edgecolor=color,
            linewidth=1.3,
            linestyle="solid" if holds else (0, (2, 1.5)),
            alpha=0.5 if holds else 0.9,
            zorder=3,
        )
        axes.scatter([x], [y], s=9, color=color, zorder=4)  # a small model's disc is a speck


def _names(axes: Any, points: Sequence[Drawn], palette: Palette) -> None:
    """Each model's name once, at its fastest variant: all of them are at the same height."""
    fastest: dict[str, Point] = {}
    for row, _, point in points:
        fastest[row.model] = min(point, fastest.get(row.model, point))
    labels = [(name, palette.quiet, *point) for name, point in fastest.items()]
    nameless = [point for _, _, point in points if point not in fastest.values()]
    steps = [((x, y), (end, y)) for (x, y), (end, _) in pairwise(_front(points))]
    place_labels(axes, labels, _bars(points) + steps, (), palette.quiet, nameless)


def _front(points: Sequence[Drawn]) -> list[Point]:
    return sorted(point for _, speed, point in points if speed.pareto)


def _bars(points: Sequence[Drawn]) -> list[tuple[Point, Point]]:
    """From each model's fastest variant to its slowest."""
    by_model: dict[str, list[Point]] = {}
    for row, _, point in points:
        by_model.setdefault(row.model, []).append(point)
    return [(min(found), max(found)) for found in by_model.values()]


def _size(row: Candidate, speed: Speed) -> float:
    return row.size_bytes.get(speed.variant, 0) / MIB or 0.1
