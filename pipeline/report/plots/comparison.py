"""What there is to choose from, as a plot: published accuracy against measured time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import pareto
from .inline_svg import saved

if TYPE_CHECKING:
    from ...speed.comparison.compare import CompareResult


def svg(result: CompareResult) -> str:
    """Published accuracy against measured time: see ``pareto``; area is the file's size.

    Raises ``ImportError`` without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    height = 4.5 * max(1, len(pareto.panels_of(result.models)))
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text for the names
    if colors := pareto.colors_of(result.models, pareto.ON_WHITE):
        style: Any = {"linestyle": "none", "marker": "o"}
        handles = [Line2D([], [], color=color, label=name, **style) for name, color in colors]
        title = "area: the file's size; hollow: a timing that isn't valid; dotted: the Pareto front"
        figure.legend(handles=handles, ncols=4, loc="outside upper left", title=title)
    pareto.draw(figure, result.models, pareto.ON_WHITE)
    return saved(figure)
