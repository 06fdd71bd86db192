"""What a training came to, with its confusion matrix, as text for the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..tables import formatting
from ..tables.table import Column, Table, figure

if TYPE_CHECKING:
    from ...training.train import TrainResult

# More classes than this make no matrix that fits a terminal; then the mix-ups are listed.
MATRIX_CLASSES = 12
MIX_UPS_SHOWN = 10


def text(result: TrainResult) -> str:
    """The best epoch, the matrix or the most frequent mix-ups, and what to do next."""
    best = result.epochs[result.best - 1]
    ended = "stopped early" if result.stopped_early else "all of them"
    lines = [
        f"  {result.architecture}: top-1 {result.top1:.2f} % of {result.held_out} held-out images, "
        f"which also chose the epoch; {result.images} learnt from",
        f"  best of {len(result.epochs)} epochs ({ended}): epoch {best.number}, "
        f"held-out loss {best.held_out_loss:.3f}",
        *(f"  {note}" for note in result.notes),
        f"  {_next_command(result)}",
    ]
    few = len(result.labels) <= MATRIX_CLASSES
    shown = _matrix(result) if few else _mix_ups(result)
    return formatting.text(shown.text(), *lines)


def _next_command(result: TrainResult) -> str:
    """The export of these weights, beside what the workspace may hold of the architecture."""
    name = Path(result.data).resolve().name
    flags = ("--checkpoint", str(result.output), "--name", name, "--calibration", result.data)
    return shlex.join(("edgepipe", "export", *flags))


def _matrix(result: TrainResult) -> Table:
    heads = (Column("is \\ taken for"), *(figure(label[:8]) for label in result.labels))
    rows = (
        (label[:16], *(str(value) if value else "·" for value in row))
        for label, row in zip(result.labels, result.confusion, strict=True)
    )
    return Table("", heads, tuple(rows))


def _mix_ups(result: TrainResult) -> Table:
    wrong = [
        (value, result.labels[i], result.labels[j], sum(row))
        for i, row in enumerate(result.confusion)
        for j, value in enumerate(row)
        if i != j and value
    ]
    most = sorted(wrong, key=lambda one: -one[0])[:MIX_UPS_SHOWN]
    rows = ((label, taken, str(value), str(total)) for value, label, taken, total in most)
    heads = (Column("is"), Column("taken for"), figure("times"), figure("of"))
    return Table("", heads, tuple(rows))
