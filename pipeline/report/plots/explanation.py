"""The layers of an explanation as a plot: what each loses so far and by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...judging.explanation import Explanation
from ..text.explanation import headline
from .inline_svg import saved

SO_FAR, OWN, BROKEN = "#1f6feb", "#bc4c00", "#cf222e"


def svg(explanations: Sequence[Explanation]) -> str:
    """All cells below each other: each layer's distance, and what it adds by itself.

    Raises ``ImportError`` without matplotlib.
    """
    from matplotlib.figure import Figure

    shown = [explanation for explanation in explanations if explanation.layers]
    figure = Figure(figsize=(11, 3.6 * max(1, len(shown))), layout="constrained")
    for number, explanation in enumerate(shown, 1):
        _panel(figure.add_subplot(len(shown), 1, number), explanation)
    return saved(figure)


def _panel(axes: Any, explanation: Explanation) -> None:
    by_tensor = {layer.tensor: layer for layer in explanation.layers}
    layers = [by_tensor[tensor] for tensor in explanation.order]
    places = range(len(layers))
    axes.plot(places, [_height(layer.sqnr_db) for layer in layers], label="so far", color=SO_FAR)
    own = [_height(layer.own_sqnr_db) for layer in layers]
    axes.plot(places, own, "o", label="the layer's own", color=OWN, markersize=4)
    broken = [place for place, layer in enumerate(layers) if layer.state == "broken"]
    if broken:
        bottom = axes.get_ylim()[0]
        axes.plot(broken, [bottom] * len(broken), "x", label="broken", color=BROKEN)
    for place, layer in enumerate(layers):
        if layer.layer == explanation.layer:
            axes.axvline(place, color=BROKEN, linewidth=1, linestyle=":")
            break
    axes.set_title(headline(explanation), loc="left", fontsize=10)
    axes.set_ylabel("SQNR, dB")
    axes.set_xticks(places, [layer.layer for layer in layers], rotation=90, fontsize=6)
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)


def _height(sqnr_db: float | None) -> float:
    """Nothing is drawn where there is no finite distance."""
    return math.nan if sqnr_db is None or not math.isfinite(sqnr_db) else sqnr_db
