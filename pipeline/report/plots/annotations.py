"""What is written into a plot: numbers on a ruler, names beside points where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from .inline_svg import QUIET

DISC = 9.0  # about the radius of a large disc, in pixels
Point = tuple[float, float]


def log_ruler(axes: Any, least: float, most: float) -> None:
    """A logarithmic x axis with room for names, and numbers at 1, 2, 5, 10 and so on."""
    axes.set_xscale("log")
    axes.set_xlim(least / 1.8, most * 2.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")


def place_labels(
    axes: Any,
    labels: Sequence[tuple[str, str, float, float]],
    bars: Sequence[tuple[Point, Point]],
    notes: Sequence[Any],
    line: str = QUIET,
    points: Sequence[Point] = (),
) -> None:
    """Write each (name, color) beside its point (x, y), where it covers nothing.

    Neither another name, nor a point, be it one of the nameless ``points``, nor a bar from its
    left to its right end, nor a note.

    A name that can't stand right beside its point, and nearer to it than to any other one, gets
    a line to it, of the colour ``line``; one that finds no place at all is left out.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer).padded(3)
    nameless = [axes.transData.transform(point) for point in points]
    places = [axes.transData.transform((x, y)) for _, _, x, y in labels]
    taken = [Text.get_window_extent(note, renderer) for note in notes]
    for left, right in bars:
        (x0, y0), (x1, _) = axes.transData.transform([left, right])
        if x1 - x0 > 2 * DISC:  # a shorter one is inside its disc
            taken.append(Bbox([[x0, y0 - 1], [x1, y0 + 1]]))
    # From the right, so that the names of a cluster fan out around it.
    for number in sorted(range(len(labels)), key=lambda number: -places[number][0]):
        name, color, x, y = labels[number]
        others = [place for other, place in enumerate(places) if other != number]
        others += nameless
        for dx, dy, side in _OFFSETS:
            pointer = {"arrowstyle": "-", "color": line, "linewidth": 0.7, "shrinkB": 4}
            note = axes.annotate(
                name,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=11,
                color=color,
                arrowprops=pointer if dy else None,
            )
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer).padded(2)  # without its line
            nearest = min((_distance(box, place) for place in others), default=math.inf)
            clear = nearest > (6 if dy else _distance(box, places[number]) + 4)
            inside = frame.containsx(box.x0) and frame.containsx(box.x1)
            inside = inside and frame.containsy(box.y0) and frame.containsy(box.y1)
            if inside and clear and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            note.remove()


def _distance(box: Any, place: Any) -> float:
    """From a point to the nearest edge of a box, in pixels; 0 inside it."""
    x, y = place
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def _steps() -> Iterator[tuple[int, int, str]]:
    """Where a label may stand from its point, the nearest first."""
    for rise in (0, 18, -18, 34, -34, 50, -50, 66, -66, 82, -82, 98, -98, 114, -114):
        for along, side in ((16, "left"), (-16, "right"), (40, "left"), (-40, "right")):
            if rise or abs(along) == 16:
                yield along, rise, side


_OFFSETS = tuple(_steps())
