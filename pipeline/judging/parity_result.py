"""The verdicts on recorded outputs: what ``parity.json`` holds, and how a row comes to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..cells.cluster.spread import ClusterUse
from ..cells.row import CellRow
from ..errors import ExitCode
from ..numerics import metrics
from ..numerics.precision import as_asked, kind_of
from ..settings import placement
from ..settings.judging import GateConfig, ParityConfig
from ..stages.quantize import saturates
from ..storage.document import UNWRITTEN, Result, plain
from ..verdicts import FAIL, exit_code
from .explanation import Explanation
from .gates import Gate, Judgement, gate_of, judge, unreliable
from .judgement import KERNELS, SATURATION
from .recording import CellOutputs, Recording


@dataclass(frozen=True, kw_only=True)
class CellVerdict(CellRow):
    """A cell's row in ``parity.json``. For several outputs the figures are the worst ones.

    An int8 cell is judged twice: ``file_sqnr_db`` is what the quantization costs, the file's own
    arithmetic against torch, ``kernels_sqnr_db`` what the runner costs, its outputs against that
    arithmetic, and ``kernels_limit_db`` the least of it. A figure without a distance in dB has a
    ``max_abs`` of 0 if it is equal. ``fault`` is "file", "kernels" or "saturation".
    ``unreliable`` says why torch's float32 is no reference for it, if it is none.
    """

    verdict: str | None
    samples: int
    samples_needed: int | None
    sqnr_db: float | None
    max_abs: float | None
    max_rel: float | None
    cosine: float | None
    top1_agreement: float | None
    top1_agreement_clear: float | None
    top5_agreement: float | None
    flipped: list[int]
    gate: Mapping[str, float | None]
    outputs: Mapping[str, Mapping[str, Any]]
    file_sqnr_db: float | None = None
    file_max_abs: float | None = None
    kernels_sqnr_db: float | None = None
    kernels_max_abs: float | None = None
    kernels_limit_db: float | None = None
    fault: str | None = None
    unreliable: str | None = None

    def figures(self) -> dict[str, float | None]:
        """What a report shows beside the verdict."""
        return {
            "SQNR dB": self.sqnr_db,
            "file SQNR dB": self.file_sqnr_db,
            "kernels SQNR dB": self.kernels_sqnr_db,
            "cosine": self.cosine,
            "max abs": self.max_abs,
            "top-1 agreement": self.top1_agreement,
            "samples": self.samples,
        }


@dataclass(frozen=True)
class ParityResult(Result):
    """What parity found. With ``--explain`` ``--json`` also has the ``explanations``.

    ``reference_sqnr_db`` is how near the reference's float32 is to its float64; where it is null,
    ``reference_state`` says why. ``problems`` are failures that belong to no cell. ``measured``
    says when it was run (UTC, ISO 8601), ``cluster`` how the work was spread if it was.
    """

    FILE = "parity.json"
    MADE_BY = "edgepipe parity"

    model: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    reference_sqnr_db: float | None
    reference_state: str
    cells: tuple[CellVerdict, ...]
    problems: tuple[str, ...]
    measured: str | None = None
    cluster: ClusterUse | None = None
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)
    explanations: tuple[Explanation, ...] = field(default=(), metadata=UNWRITTEN)
    folder: Path | None = field(default=None, metadata=UNWRITTEN)

    @property
    def reference(self) -> float:
        """The reference's float32 against its float64, dB; infinite where they are equal."""
        return metrics.distance(self.reference_sqnr_db, self.reference_state)

    def to_json(self) -> dict[str, Any]:
        """The document, with the explanations that ``parity.json`` leaves to ``explain.json``."""
        explained = {"explanations": plain(self.explanations)} if self.explanations else {}
        return super().to_json() | explained


def judge_all(
    recording: Recording, section: ParityConfig, limits: Mapping[str, GateConfig]
) -> ParityResult:
    """Judge recorded outputs under the limits of ``[gates]``; runs nothing."""
    required = section.require_ep
    cells = tuple(_judge_cell(cell, recording, required, limits) for cell in recording.cells)
    # Where the variant that can't saturate is computed wrong as well, it isn't saturation.
    elsewhere = {
        _place(cell)
        for cell, row in zip(recording.cells, cells, strict=True)
        if row.fault == KERNELS
    }
    cells = tuple(
        _judge_cell(cell, recording, required, limits, may_saturate=False)
        if row.fault == SATURATION and _place(cell) in elsewhere
        else row
        for cell, row in zip(recording.cells, cells, strict=True)
    )
    problems = placement.unmet([cell.provider or "" for cell in recording.cells], required)
    return ParityResult(
        model=recording.model,
        artifacts=recording.artifacts,
        hosts={cell.target: cell.host for cell in recording.cells if cell.host},
        **recording.reference_json(),
        cells=cells,
        problems=problems,
        exit_code=ExitCode.GATE_FAILED if problems else exit_code(cells, section.runners),
        measured=recording.measured,
    )


def gate_for(cell: CellOutputs, recording: Recording, limits: Mapping[str, GateConfig]) -> Gate:
    """The limits of a recorded cell."""
    return gate_of(cell.variant, cell.runner, cell.asked, recording.reference_sqnr_db, limits)


def _place(cell: CellOutputs) -> tuple[str, str, str]:
    """Where and as what it was computed: whose kernels they are."""
    return cell.runner, cell.target, cell.asked


def _judge_cell(
    cell: CellOutputs,
    recording: Recording,
    required: Sequence[str],
    limits: Mapping[str, GateConfig],
    *,
    may_saturate: bool = True,
) -> CellVerdict:
    if cell.status != "ok":
        verdict = FAIL if cell.misplaced else ""
        return _row(cell, recording, Judgement(verdict, (cell.reason or "",)), None)
    gate = gate_for(cell, recording, limits)
    judgement = judge(
        cell.arrays,
        recording.reference,
        gate,
        classifier=recording.model.get("classes", 0) is not None,
        own=recording.own.get(cell.variant),
        saturates=may_saturate and saturates(cell.variant, cell.host),
    )
    reason = unreliable(kind_of(cell.variant, cell.asked), gate, recording.reference_sqnr_db)
    judgement = judgement.without(reason)
    if not as_asked(cell.variant, cell.asked, cell.precision or ""):
        judgement = judgement.failing(f"computed in {cell.precision}, {cell.asked} was asked for")
    missed = placement.missed(cell.placement, cell.provider or "", required)
    judgement = judgement.failing(*missed)
    return _row(cell, recording, judgement, gate, reason)


def _row(
    cell: CellOutputs,
    recording: Recording,
    judgement: Judgement,
    gate: Gate | None,
    unreliable: str | None = None,
) -> CellVerdict:
    said = {"reason": "; ".join(judgement.reasons) or None, **judgement.figures()}
    return CellVerdict(
        **(cell.shared() | said),
        verdict=judgement.verdict or None,
        samples=recording.samples if cell.status == "ok" else 0,
        samples_needed=judgement.samples_needed,
        flipped=judgement.flipped,
        gate=asdict(gate) if gate else {},
        outputs={name: _detail(judgement, name) for name in judgement.outputs},
        fault=judgement.fault,
        unreliable=unreliable,
    )


def _detail(judgement: Judgement, name: str) -> dict[str, Any]:
    """All figures of one output."""
    detail = plain(judgement.outputs[name])
    if parts := judgement.twice.get(name):
        detail["file"], detail["kernels"] = plain(parts.file), plain(parts.kernels)
        detail["kernels_limit_db"] = metrics.finite(parts.limit)
    return detail
