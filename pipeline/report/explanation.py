"""An explanation as text for the terminal and as a plot."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from ..explanation import Explanation
from ..gates import FAIL
from . import tables

LAYERS_SHOWN = 10
SO_FAR, OWN, BROKEN = "#1f6feb", "#bc4c00", "#cf222e"


def text(explanation: Explanation) -> str:
    """The steps, the worst layers and the findings of one cell."""
    steps = tables.table("", "step", "file", "verdict", ">SQNR dB", ">step adds dB")
    for step in explanation.steps:
        mark = "→" if step.name == explanation.step else ""
        figures = (_db(step.sqnr_db), _db(step.step_sqnr_db))
        steps.add_row(mark, step.name, step.file, step.verdict, *figures)
    layers = tables.table("layer", "operators", ">SQNR dB", ">its own dB", ">clipped")
    for layer in explanation.layers[:LAYERS_SHOWN]:
        clipped = "–" if layer.clipped is None else f"{layer.clipped:.2%}"
        figures = (_db(layer.sqnr_db), _db(layer.own_sqnr_db), clipped)
        layers.add_row(layer.layer, layer.operators, *figures)
    blamed = {step.reason: step.name for step in reversed(explanation.steps) if step.reason}
    lines = [f"  {name}: {reason}" for reason, name in reversed(blamed.items())]
    lines += [f"  {finding.text}" for finding in explanation.findings]
    lines += [f"  note: {note}" for note in explanation.notes]
    more = len(explanation.layers) - LAYERS_SHOWN
    if more > 0:
        lines.append(f"  and {more} better layers, see explain.json and explain.svg")
    parts = [_headline(explanation), steps]
    return "\n" + tables.text(*parts, *([layers] if explanation.layers else []), *lines)


def svg(explanations: Sequence[Explanation]) -> str:
    """All cells below each other: each layer's distance, and what it adds by itself.

    Raises ``ImportError`` without matplotlib.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = [explanation for explanation in explanations if explanation.layers]
    figure = Figure(figsize=(11, 3.6 * max(1, len(shown))), layout="constrained")
    for number, explanation in enumerate(shown, 1):
        _panel(figure.add_subplot(len(shown), 1, number), explanation)
    buffer = io.StringIO()
    # Text stays text, and equal explanations give equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgepipe"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _headline(explanation: Explanation) -> str:
    cell = f"{explanation.variant} / {explanation.runner}"
    if explanation.target != "local":
        cell += f" on {explanation.target}"
    failed = any(step.verdict == FAIL for step in explanation.steps)
    verb = "breaks at" if failed else "passes; most of the error comes from"
    if failed and explanation.verdict not in (FAIL, "failed"):
        verb = f"has the verdict {explanation.verdict}, but breaks at"
    layer = f", layer {explanation.layer}" if explanation.layer else ""
    return f"{cell} {verb} step {explanation.step}{layer}"


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
    axes.set_title(_headline(explanation), loc="left", fontsize=10)
    axes.set_ylabel("SQNR, dB")
    axes.set_xticks(places, [layer.layer for layer in layers], rotation=90, fontsize=6)
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)


def _height(sqnr_db: float | None) -> float:
    """Nothing is drawn where there is no finite distance."""
    return math.nan if sqnr_db is None or not math.isfinite(sqnr_db) else sqnr_db


def _db(value: float | None) -> str:
    if value is None:
        return "–"
    if math.isfinite(value):
        return f"{value:.1f}"
    return "equal" if value > 0 else "broken"
