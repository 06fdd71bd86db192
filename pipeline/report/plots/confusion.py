"""The confusion matrix of a training as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .inline_svg import saved

if TYPE_CHECKING:
    from ...training.train import TrainResult


def svg(result: TrainResult) -> str:
    """The matrix with its counts, rows normalized to colours.

    Raises ``ImportError`` without matplotlib.
    """
    from matplotlib.figure import Figure

    count = len(result.labels)
    side = min(16.0, 2.5 + 0.4 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = [[value / max(1, sum(row)) for value in row] for row in result.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = max(3, min(9, 200 // count))
    for i, row in enumerate(result.confusion):
        for j, value in enumerate(row):
            if value and count <= 50:
                colour = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, str(value), ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(count), result.labels, rotation=90, fontsize=size)
    axes.set_yticks(range(count), result.labels, fontsize=size)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(
        f"{result.architecture}: top-1 {result.top1:.2f} % of {result.held_out} held-out images",
        loc="left",
        fontsize=10,
    )
    return saved(figure)
