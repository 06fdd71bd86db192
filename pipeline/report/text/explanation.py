"""An explanation as text for the terminal and as a plot."""

from __future__ import annotations

import math

from ...judging.explanation import Explanation
from ...verdicts import FAIL
from . import formatting

LAYERS_SHOWN = 10


def text(explanation: Explanation) -> str:
    """The steps, the worst layers and the findings of one cell."""
    steps = formatting.table("", "step", "file", "verdict", ">SQNR dB", ">step adds dB")
    for step in explanation.steps:
        mark = "→" if step.name == explanation.step else ""
        figures = (_db(step.sqnr_db), _db(step.step_sqnr_db))
        steps.add_row(mark, step.name, step.file, step.verdict, *figures)
    layers = formatting.table("layer", "operators", ">SQNR dB", ">its own dB", ">clipped")
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
    parts = [headline(explanation), steps]
    return "\n" + formatting.text(*parts, *([layers] if explanation.layers else []), *lines)


def headline(explanation: Explanation) -> str:
    """One line: which cell, which step, which layer."""
    cell = f"{explanation.variant} / {explanation.runner}"
    if explanation.target != "local":
        cell += f" on {explanation.target}"
    failed = any(step.verdict == FAIL for step in explanation.steps)
    verb = "breaks at" if failed else "passes; most of the error comes from"
    if failed and explanation.verdict not in (FAIL, "failed"):
        verb = f"has the verdict {explanation.verdict}, but breaks at"
    layer = f", layer {explanation.layer}" if explanation.layer else ""
    return f"{cell} {verb} step {explanation.step}{layer}"


def _db(value: float | None) -> str:
    if value is None:
        return "–"
    if math.isfinite(value):
        return f"{value:.1f}"
    return "equal" if value > 0 else "broken"
