"""The layers of a profile as bars, from the input down to the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...profiling.profile_result import INT8, LayerTime, ProfileResult
from ..tables.formatting import shortened
from .inline_svg import BAD, INK, QUIET, SERIES, VARIABLES, figure_of
from .plots import WIDE

INT8_COLOR, FLOAT_COLOR, CONVERSION_COLOR = SERIES[0], SERIES[1], SERIES[2]
ROW, FRAME = 16, 70  # pixels
LAYERS_DRAWN = 72
NAME_WIDTH, NARROW_NAME_WIDTH = 34, 20


def layers(found: ProfileResult | None, width: int) -> str | None:
    """A bar for each layer in the order of execution: what it computes in, and what is converted.

    Of a model with very many those that take the most are drawn. Beside a bar stands its share of
    the peak.
    """
    if found is None or not found.layers:
        return None
    drawn = {id(layer) for layer in found.costliest[:LAYERS_DRAWN]}
    shown = [layer for layer in found.layers if id(layer) in drawn]
    with figure_of(width, FRAME + ROW * len(shown)) as (figure, finish):
        axes = figure.add_subplot()
        _bars(axes, shown)
        _labels(axes, shown, NAME_WIDTH if width == WIDE else NARROW_NAME_WIDTH)
        axes.set_xlabel("µs a run")
        cell = found.cell
        described = "; ".join(
            f"{layer.layer} {layer.share:.1%}, {layer.precision}" for layer in found.costliest[:10]
        )
        name = f"{cell.variant} on {cell.runner}"
        return finish("profile", f"Time by layer of {name}, the costliest: {described}")


def undrawn(found: ProfileResult) -> int:
    """How many layers are too many for the drawing."""
    return max(0, len(found.layers) - LAYERS_DRAWN)


def legend(found: ProfileResult) -> dict[str, str]:
    """What each colour stands for, as the page's variables, of what there is."""
    kinds: dict[str, str] = {}
    for layer in found.layers:
        color = _color(layer)
        kinds[f"computed in {layer.precision}"] = f"var({VARIABLES[color]})"
    if any(layer.conversion_us for layer in found.layers):
        kinds["conversions behind it"] = f"var({VARIABLES[CONVERSION_COLOR]})"
    return kinds


def _bars(axes: Any, shown: Sequence[LayerTime]) -> None:
    places = range(len(shown))
    us = [layer.us for layer in shown]
    axes.barh(places, us, height=0.72, color=[_color(layer) for layer in shown])
    converted = [layer.conversion_us for layer in shown]
    axes.barh(places, converted, left=us, height=0.72, color=CONVERSION_COLOR)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    most = max((layer.us + layer.conversion_us for layer in shown), default=0.0)
    axes.set_xlim(0, (most or 1.0) * 1.12)
    axes.grid(visible=False, axis="y")


def _labels(axes: Any, shown: Sequence[LayerTime], width: int) -> None:
    names = [shortened(layer.layer, width) for layer in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=11)
    axes.tick_params(axis="y", length=0)
    for tick, layer in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_color(BAD if layer.between_int8 else INK)
    for place, layer in enumerate(shown):
        if layer.peak_share is not None:
            axes.annotate(
                f"{layer.peak_share:.0%}",
                (layer.us + layer.conversion_us, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
                color=QUIET,
            )


def _color(layer: LayerTime) -> str:
    return INT8_COLOR if layer.precision == INT8 else FLOAT_COLOR
