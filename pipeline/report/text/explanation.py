"""An explanation as text for the terminal, and its layers as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from ...judging.explanation import Explanation, LayerError, Step
from ...numerics.metrics import MEASURED
from ...verdicts import FAIL
from ..tables import formatting
from ..tables.columns import distance
from ..tables.formatting import number
from ..tables.table import Column, Table, Verdict, figure

LAYERS_SHOWN = 10


def _so_far(layer: LayerError) -> str:
    # The state is the layer's own where that was measured.
    return distance(layer.sqnr_db, layer.state if layer.own_sqnr_db is None else MEASURED)


LAYERS = (
    Column("layer", lambda layer: layer.layer),
    Column("operators", lambda layer: layer.operators),
    figure("SQNR so far, dB", _so_far, "SQNR dB"),
    figure("its own, dB", lambda layer: distance(layer.own_sqnr_db, layer.state), "its own dB"),
    figure("weights cost, dB", lambda layer: number(layer.weights_db, ".1f"), "weights"),
    figure("values cost, dB", lambda layer: number(layer.values_db, ".1f"), "values"),
    figure("values clipped", lambda layer: number(layer.clipped, ".2%"), "clipped"),
)
STEPS = (
    Column("step", lambda step: step.name),
    Column("file", lambda step: step.file),
    Column("verdict", lambda step: Verdict(step.verdict)),
    figure("SQNR dB", lambda step: distance(step.sqnr_db, step.state)),
    figure("step adds dB", lambda step: distance(step.step_sqnr_db, MEASURED)),
)


def text(explanation: Explanation) -> str:
    """The steps, the worst layers and the findings of one cell."""

    def mark(step: Step) -> str:
        return "→" if step.name == explanation.step else ""

    blamed = {step.reason: step.name for step in reversed(explanation.steps) if step.reason}
    lines = [f"  {name}: {reason}" for reason, name in reversed(blamed.items())]
    lines += [f"  {finding.text}" for finding in explanation.findings]
    if dearest := costliest(explanation.layers):
        lines.append(f"  `quantize --search` would first keep in float: {', '.join(dearest)}")
    lines += [f"  note: {note}" for note in explanation.notes]
    more = len(explanation.layers) - LAYERS_SHOWN
    if more > 0:
        lines.append(f"  and {more} better layers, see explain.json and explain.svg")
    steps = Table.of([Column("", mark), *STEPS], explanation.steps)
    parts: list[RenderableType] = [headline(explanation), steps.text()]
    if explanation.layers:
        parts.append(worst_layers(explanation, LAYERS_SHOWN).text())
    return "\n" + formatting.text(*parts, *lines)


def costliest(layers: Sequence[LayerError], most: int = 3) -> list[str]:
    """The layers whose weights and outputs in int8 cost the model most, the costliest first."""

    def cost(layer: LayerError) -> float:
        parts = [10 ** (-db / 10) for db in (layer.weights_db, layer.values_db) if db is not None]
        return sum(parts)

    # One whose weights are in float already has a cost of its values alone.
    quantized = [layer for layer in layers if layer.weights_db is not None]
    known = sorted(quantized, key=cost, reverse=True)
    return [layer.layer for layer in known[:most]]


def worst_layers(explanation: Explanation, most: int) -> Table:
    """The layers that add the most error."""
    place = "" if explanation.target == "local" else f" at {explanation.target}"
    worst = explanation.layers[:most]
    caption = (
        f"{explanation.variant} · {explanation.runner}{place}: "
        f"the {len(worst)} worst of {len(explanation.layers)} layers"
    )
    return Table.of(LAYERS, worst, caption)


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
