"""What predict found, as text for a terminal of 100 columns."""

from __future__ import annotations

from rich.console import RenderableType

from ...judging.predict import Prediction, PredictResult
from ..tables.formatting import ms, text
from ..tables.table import Column, Table, figure

IMAGE_WIDTH = 40
HEADS = (*map(Column, ("image", "label")), *map(figure, ("probability", "decode", "run")))


def predictions(result: PredictResult) -> str:
    """A line for each guess of the images that were read, and one for each that wasn't."""
    rows = tuple(row for prediction in result.predictions for row in _rows(prediction))
    parts: list[RenderableType] = [Table("", HEADS, rows).text()] if rows else []
    parts += [
        f"  {prediction.error}" for prediction in result.predictions if prediction.error is not None
    ]
    place = "" if result.target == "local" else f" on {result.target}"
    parts.append(
        f"  {result.model['name']} {result.variant} / {result.runner}{place}, {result.precision}, "
        f"{result.threads} threads; times in ms, the first run's with what starts only then"
    )
    if result.isa:
        parts.append(
            f"  {result.target}: this CPU computing as an older one (oneDNN: {result.isa})"
        )
    if result.scores == "probabilities":
        parts.append("  the model gives probabilities itself: shown as they are")
    return text(*parts)


def _rows(prediction: Prediction) -> list[tuple[str, ...]]:
    rows = []
    for place, guess in enumerate(prediction.top):
        times = ["", ""]
        if place == 0:
            times = [ms(prediction.decode_ms or 0), ms(prediction.run_ms or 0)]
        name = prediction.image if place == 0 else ""
        if len(name) > IMAGE_WIDTH:
            name = "…" + name[1 - IMAGE_WIDTH :]
        rows.append((name, guess.label, f"{guess.probability:.1%}", *times))
    return rows
