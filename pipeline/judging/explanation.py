"""What ``parity --explain`` found of a cell: the step to blame, and the layers in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..numerics import metrics
from ..storage.document import Result
from .findings import Finding


class _Stated:
    """Has a ``state``: a distance that isn't finite is null in a file, and this says which way.

    It is "measured", "equal", "broken" or "not measured" (see ``metrics.state``).
    """

    sqnr_db: float | None
    state: str

    def __post_init__(self) -> None:
        # Read from a file it is known already.
        if not self.state:
            object.__setattr__(self, "state", metrics.state(self._counts()))

    def _counts(self) -> float | None:
        return self.sqnr_db


@dataclass(frozen=True)
class Step(_Stated):
    """A station of the way from torch to the runner.

    ``sqnr_db`` is the distance of its outputs to torch's, ``step_sqnr_db`` that to the outputs
    of the step before: what this step adds. Infinite for equal outputs.
    """

    name: str
    file: str
    sqnr_db: float | None
    step_sqnr_db: float | None
    verdict: str
    reason: str | None
    state: str = ""


@dataclass(frozen=True)
class LayerError(_Stated):
    """A layer's distance to the same layer of the float model, in dB.

    ``sqnr_db`` holds what has piled up so far, ``own_sqnr_db`` what the layer adds by itself when
    it is fed exact inputs. ``None`` where it could not be measured. ``clipped`` is the share of
    values outside the range of its quantization. ``weights_db`` and ``values_db`` are an int8
    layer's costs at the model's outputs: those of the float model with nothing in int8 but this
    layer's weights and bias, or its output. ``None`` for what isn't in int8, or costs nothing.
    """

    layer: str
    operators: str
    tensor: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    clipped: float | None = None
    weights_db: float | None = None
    values_db: float | None = None
    state: str = ""

    def _counts(self) -> float | None:
        return self.sqnr_db if self.own_sqnr_db is None else self.own_sqnr_db

    @property
    def badness(self) -> float:
        """What layers are ordered by, the worst first."""
        counts = self._counts()
        return math.inf if counts is None else counts

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts the worst first, and what was not measured last."""
        return self.state == metrics.UNKNOWN, self.badness


@dataclass(frozen=True)
class Explanation:
    """Of one cell: ``step`` adds the error (or the most of it), ``layer`` is where in it.

    ``steps`` and ``layers`` are what that rests on, the worst layers first; ``order`` has the
    layers' tensors as the graph has them.
    """

    variant: str
    runner: str
    target: str
    precision: str
    verdict: str | None
    samples: int
    step: str
    layer: str | None
    steps: tuple[Step, ...]
    layers: tuple[LayerError, ...]
    order: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExplainResult(Result):
    """What ``parity --explain`` found of the cells that failed, or of all."""

    FILE = "explain.json"
    MADE_BY = "edgepipe parity --explain"

    cells: tuple[Explanation, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
