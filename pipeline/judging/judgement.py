"""What is found of a cell's outputs: distances, a verdict with its reasons, whose fault it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..numerics import metrics
from ..verdicts import FAIL

# Who a failed int8 cell is the fault of: see ``gates.judge``.
FILE, KERNELS, SATURATION = "file", "kernels", "saturation"
# The figures of a cell that is judged twice, beside those of any cell.
TWICE = (
    "file_sqnr_db",
    "file_max_abs",
    "kernels_sqnr_db",
    "kernels_max_abs",
    "kernels_limit_db",
)


@dataclass(frozen=True)
class Distance:
    """One output of a cell against torch's. See ``metrics`` for the formulas."""

    sqnr_db: float
    max_abs: float
    max_rel: float
    cosine: float
    top1_agreement: float | None
    top1_agreement_clear: float | None
    top5_agreement: float | None
    flipped: list[int]


@dataclass(frozen=True)
class Twice:
    """What one output of an int8 cell lost, taken apart.

    ``file`` is the file's own arithmetic against torch: what the quantization costs. ``kernels``
    are the cell's outputs against the file's own arithmetic: what the runner costs. ``limit`` is
    the least SQNR of the kernels in dB.
    """

    file: Distance
    kernels: Distance
    limit: float

    @property
    def margin(self) -> float:
        """How far the kernels are above their limit, dB."""
        return math.inf if self.kernels.sqnr_db == math.inf else self.kernels.sqnr_db - self.limit


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reasons and what it was judged by.

    ``twice`` and ``fault`` ("file", "kernels" or "saturation") are for a cell that is judged twice.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    samples_needed: int | None = None
    outputs: Mapping[str, Distance] = field(default_factory=dict)
    twice: Mapping[str, Twice] = field(default_factory=dict)
    fault: str | None = None

    @property
    def flipped(self) -> list[int]:
        """The samples with another class than torch's in any output."""
        return sorted({index for one in self.outputs.values() for index in one.flipped})

    def figures(self) -> dict[str, float | None]:
        """What a row shows, of the worst output; ``None`` where it is infinite or doesn't apply.

        ``kernels_limit_db`` is that of the output whose kernels are nearest to their limit.
        """
        distances, twice = list(self.outputs.values()), list(self.twice.values())
        files = [one.file for one in twice]
        tightest = min(twice, key=lambda one: one.margin, default=None)
        return {
            "sqnr_db": _worst(distances, "sqnr_db", min),
            "max_abs": _worst(distances, "max_abs", max),
            "max_rel": _worst(distances, "max_rel", max),
            "cosine": _worst(distances, "cosine", min),
            "top1_agreement": _worst(distances, "top1_agreement", min),
            "top1_agreement_clear": _worst(distances, "top1_agreement_clear", min),
            "top5_agreement": _worst(distances, "top5_agreement", min),
            "file_sqnr_db": _worst(files, "sqnr_db", min),
            "file_max_abs": _worst(files, "max_abs", max),
            "kernels_sqnr_db": metrics.finite(tightest.kernels.sqnr_db) if tightest else None,
            "kernels_max_abs": _worst([one.kernels for one in twice], "max_abs", max),
            "kernels_limit_db": metrics.finite(tightest.limit) if tightest else None,
        }

    def without(self, reference: str | None) -> Judgement:
        """With a ``reference`` that is none, for this reason: it fails, and no limit counts."""
        if reference is None:
            return self
        return replace(self, verdict=FAIL, reasons=(reference,), samples_needed=None, fault=None)

    def failing(self, *reasons: str) -> Judgement:
        """What it is with more that fails it, which counts first."""
        if not reasons:
            return self
        return replace(self, verdict=FAIL, reasons=(*reasons, *self.reasons), samples_needed=None)


def _worst(distances: Sequence[Distance], name: str, choose: Any) -> float | None:
    values = [getattr(distance, name) for distance in distances]
    values = [value for value in values if value is not None]
    return metrics.finite(float(choose(values))) if values else None
