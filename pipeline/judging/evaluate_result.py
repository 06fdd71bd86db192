"""What ``evaluation.json`` holds: a row for each cell's accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import TypedDict

from ..cells.cluster.spread import ClusterUse
from ..cells.row import CellRow
from ..errors import ExitCode
from ..numerics.paired import Drop
from ..storage.document import UNWRITTEN, Result


@dataclass(frozen=True, kw_only=True)
class CellAccuracy(CellRow):
    """A cell's row in ``evaluation.json``. Shares are in [0, 1], ``None`` unless it ran.

    ``drop`` is ``None`` for the reference itself, ``verdict`` also where no limit was given, and
    ``top5`` is for a model of five classes or fewer. ``file_sqnr_db`` and what follows are an int8
    cell's on the goldens, as in ``CellVerdict``; they are shown here and judged by parity.
    """

    verdict: str | None = None
    images: int = 0
    images_needed: int | None = None
    correct: int | None = None
    top1: float | None = None
    top1_ci95: tuple[float, float] | None = None
    top5: float | None = None
    drop: Drop | None = None
    batch: int | None = None
    file_sqnr_db: float | None = None
    file_max_abs: float | None = None
    kernels_sqnr_db: float | None = None
    kernels_max_abs: float | None = None
    kernels_limit_db: float | None = None
    fault: str | None = None

    def figures(self) -> dict[str, float | None]:
        """What a report shows beside the verdict."""
        return {
            "top-1": self.top1,
            "top-5": self.top5,
            "drop": self.drop.points if self.drop else None,
            "images": self.images,
            "file SQNR dB": self.file_sqnr_db,
            "kernels SQNR dB": self.kernels_sqnr_db,
        }


class Data(TypedDict):
    """What was evaluated on; ``digest`` is that of all its images with their labels."""

    name: str
    images: int
    classes: int
    digest: str


class CellName(TypedDict):
    """A cell of float32."""

    variant: str
    runner: str
    target: str


@dataclass(frozen=True)
class EvaluationResult(Result):
    """What evaluate found. ``reference`` is the cell that drops are counted from.

    ``max_drop`` is what a cell may lose, in percentage points. ``cluster`` says how the work was
    spread if it was.
    """

    FILE = "evaluation.json"
    MADE_BY = "edgepipe evaluate"

    model: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    data: Data
    max_drop: float | None
    reference: CellName | None
    notes: tuple[str, ...]
    cells: tuple[CellAccuracy, ...]
    cluster: ClusterUse | None = None
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)
