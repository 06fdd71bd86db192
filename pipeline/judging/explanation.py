"""What ``parity --explain`` found of a cell: the step to blame, and the layers in it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..numerics import metrics
from .findings import Finding


@dataclass(frozen=True)
class Step:
    """A station of the way from torch to the runner.

    ``sqnr_db`` is the distance of its outputs to torch's, ``step_sqnr_db`` that to the outputs
    of the step before: what this step adds. Infinite for equal outputs.
    """

    name: str
    file: str
    sqnr_db: float
    step_sqnr_db: float
    verdict: str
    reason: str | None

    @property
    def state(self) -> str:
        """ "measured", "equal" or "broken", as ``LayerError.state``."""
        return metrics.state(self.sqnr_db)


@dataclass(frozen=True)
class LayerError:
    """A layer's distance to the same layer of the float model, in dB.

    ``sqnr_db`` holds what has piled up so far, ``own_sqnr_db`` what the layer adds by itself when
    it is fed exact inputs. ``None`` where it could not be measured. ``clipped`` is the share of
    values outside the range of its quantization.
    """

    layer: str
    operators: str
    tensor: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    clipped: float | None = None

    @property
    def badness(self) -> float:
        """What layers are ordered by, the worst first."""
        for value in (self.own_sqnr_db, self.sqnr_db):
            if value is not None:
                return value
        return math.inf

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts the worst first, and what was not measured last."""
        return self.state == metrics.UNKNOWN, self.badness

    @property
    def state(self) -> str:
        """See ``metrics.state``: of the figure that counts, its own or the one so far."""
        measured = self.sqnr_db if self.own_sqnr_db is None else self.own_sqnr_db
        return metrics.state(measured)


@dataclass(frozen=True)
class Blame:
    """Of one cell: ``step`` adds the error (or the most of it), ``layer`` is where in it."""

    variant: str
    runner: str
    target: str
    precision: str
    verdict: str | None
    samples: int
    step: str
    layer: str | None


@dataclass(frozen=True)
class Explanation(Blame):
    """The blame, and what it rests on: every step and layer, the worst layers first."""

    steps: tuple[Step, ...]
    layers: tuple[LayerError, ...]
    order: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values: distances that are not finite are null, and ``state`` says which way."""
        value = asdict(self)
        for entries, found in (("steps", self.steps), ("layers", self.layers)):
            for entry, one in zip(value[entries], found, strict=True):
                entry["state"] = one.state
        return _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return metrics.finite(value) if isinstance(value, float) else value
