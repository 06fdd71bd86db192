"""parity: are a cell's answers still torch's? Runs the goldens through every cell and judges.

The outputs are kept in ``parity.npz``, so that other gates can be tried without running
anything again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...runners.base import PlacementError, RunnerError
from ..cells import arithmetic
from ..cells.plan import Refused, plan
from ..cells.session import Cell, Opener, run_goldens, status_of
from ..errors import ExitCode, InputError
from ..numerics import metrics
from ..numerics.limits import kind_of
from ..progress import Progress
from ..settings import placement
from ..settings.load import Config
from ..settings.sections import GateConfig
from ..stages.quantize import saturates
from ..storage import goldens as recorded
from ..storage.goldens import reference_json
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace
from ..verdicts import FAIL, exit_code
from .gates import Gate, Judgement, default_gate, judge, unreliable
from .judgement import KERNELS, SATURATION
from .recording import SCHEMA_VERSION, CellOutputs, Recording

if TYPE_CHECKING:
    from .explanation import Explanation

OUTPUTS_FILE = "parity.npz"
RESULT_FILE = "parity.json"


@dataclass(frozen=True)
class CellVerdict:
    """A cell's row in ``parity.json``. For several outputs the figures are the worst ones.

    An int8 cell is judged twice: ``file_sqnr_db`` is what the quantization costs, the file's own
    arithmetic against torch, ``kernels_sqnr_db`` what the runner costs, its outputs against that
    arithmetic, and ``kernels_limit_db`` the least of it. A figure without a distance in dB has a
    ``max_abs`` of 0 if it is equal. ``fault`` is "file", "kernels" or "saturation".
    ``unreliable`` says why torch's float32 is no reference for it, if it is none.
    """

    variant: str
    runner: str
    target: str
    status: str
    reason: str | None
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
    device: str | None
    device_name: str | None
    provider: str | None
    nodes: Mapping[str, int]
    placement: Mapping[str, float]
    file: str | None
    precision: str | None
    precision_from: str | None
    threads: int | None
    runner_version: str | None
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
class ParityResult:
    """What ``parity.json`` holds, and the explanations if they were asked for.

    ``problems`` are failures that belong to no cell.
    """

    model: Mapping[str, Any]
    artifacts: Mapping[str, str]
    hosts: Mapping[str, Mapping[str, Any]]
    reference_sqnr_db: float
    cells: tuple[CellVerdict, ...]
    problems: tuple[str, ...]
    exit_code: ExitCode
    measured: str | None = None
    explanations: tuple[Explanation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document: JSON values only."""
        document = asdict(replace(self, explanations=())) | reference_json(self.reference_sqnr_db)
        del document["exit_code"], document["explanations"]
        if self.explanations:
            document["explanations"] = [found.to_json() for found in self.explanations]
        return {"schema_version": SCHEMA_VERSION, **document}


def record(
    workspace: Workspace,
    manifest: Manifest,
    config: Config,
    progress: Progress,
    cells: Sequence[Cell] | None = None,
) -> Recording:
    """Run the goldens through ``cells``, or every cell of ``config.parity``.

    A cell that fails says why.
    """
    refused: Sequence[Refused] = ()
    if cells is None:
        cells, refused = plan(manifest, config, config.parity)
    goldens = recorded.Goldens.load(workspace.folder / recorded.FILE)
    preprocessing = recorded.preprocessing_of(manifest)
    second = {
        variant: arithmetic.of_workspace(workspace.folder, manifest, variant)
        for variant in dict.fromkeys(cell.variant for cell in cells)
    }
    count = min(config.parity.samples or len(goldens), len(goldens))
    if count == 0:
        raise InputError(f"{workspace.folder / recorded.FILE}: no goldens in it")
    found: list[CellOutputs] = []
    opener = Opener()
    for number, cell in enumerate(cells):

        def step(done: int, number: int = number, cell: Cell = cell) -> None:
            progress.step(number * count + done, len(cells) * count, str(cell))

        step(0)
        try:
            with opener.open(cell, workspace.folder / cell.file) as opened:
                arrays = run_goldens(opened, goldens, preprocessing, count, step)
                host = opened.worker.hello["host"]
        except RunnerError as error:
            found.append(_without_outputs(cell, error))
        else:
            placed = opened.loaded.placement
            found.append(
                CellOutputs(
                    cell.variant,
                    cell.runner,
                    cell.target.name,
                    cell.precision,
                    status="ok",
                    file=cell.file,
                    precision=placed.precision,
                    threads=placed.threads,
                    runner_version=opened.loaded.runner_version,
                    device=placed.device,
                    device_name=placed.device_name,
                    provider=placed.provider,
                    precision_from=placed.precision_from,
                    nodes=placed.nodes,
                    placement=placed.shares(),
                    convolutions=placed.convolutions,
                    host=host,
                    arrays=arrays,
                    cell=cell,
                )
            )
    progress.step(1, 1, "")
    found += [
        CellOutputs(
            *(one.variant, one.runner, one.target, one.precision or "", one.status, one.reason),
            precision=one.precision,
        )
        for one in refused
    ]
    return Recording(
        model=manifest.model,
        artifacts=manifest.digests,
        reference_sqnr_db=goldens.reference_sqnr_db,
        reference={name: array[:count] for name, array in goldens.fp32.items()},
        cells=tuple(found),
        own={variant: own.first(count) for variant, own in second.items() if own},
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def judge_all(recording: Recording, config: Config) -> ParityResult:
    """Judge recorded outputs under the gates of ``config``; runs nothing."""
    cells = tuple(_judge_cell(cell, recording, config) for cell in recording.cells)
    # Where the variant that can't saturate is computed wrong as well, it isn't saturation.
    elsewhere = {
        _place(cell)
        for cell, row in zip(recording.cells, cells, strict=True)
        if row.fault == KERNELS
    }
    cells = tuple(
        _judge_cell(cell, recording, config, may_saturate=False)
        if row.fault == SATURATION and _place(cell) in elsewhere
        else row
        for cell, row in zip(recording.cells, cells, strict=True)
    )
    required = config.parity.require_ep
    problems = placement.unmet([cell.provider or "" for cell in recording.cells], required)
    return ParityResult(
        model=recording.model,
        artifacts=recording.artifacts,
        hosts={cell.target: cell.host for cell in recording.cells if cell.host},
        reference_sqnr_db=recording.reference_sqnr_db,
        cells=cells,
        problems=problems,
        exit_code=ExitCode.GATE_FAILED if problems else exit_code(cells, config.parity.runners),
        measured=recording.measured,
    )


def gate_for(cell: CellOutputs, recording: Recording, config: Config) -> Gate:
    """The limits of a recorded cell."""
    return gate_of(cell.variant, cell.runner, cell.asked, recording.reference_sqnr_db, config)


def gate_of(
    variant: str, runner: str | None, precision: str, reference_sqnr_db: float, config: Config
) -> Gate:
    """The default for the cell's kind, then what ``[gates]`` says of its variant and runner."""
    gate = asdict(default_gate(kind_of(variant, precision), reference_sqnr_db))
    for key in (variant, f"{variant}/{runner}"):
        override = config.gates.get(key, GateConfig())
        gate |= {name: value for name, value in vars(override).items() if value is not None}
    return Gate(**gate)


def _place(cell: CellOutputs) -> tuple[str, str, str]:
    """Where and as what it was computed: whose kernels they are."""
    return cell.runner, cell.target, cell.asked


def _judge_cell(
    cell: CellOutputs, recording: Recording, config: Config, *, may_saturate: bool = True
) -> CellVerdict:
    if cell.status != "ok":
        verdict = FAIL if cell.misplaced else ""
        return _row(cell, recording, Judgement(verdict, (cell.reason or "",)), None)
    gate = gate_for(cell, recording, config)
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
    if cell.precision != cell.asked:
        judgement = judgement.failing(f"computed in {cell.precision}, {cell.asked} was asked for")
    missed = placement.missed(cell.placement, cell.provider or "", config.parity.require_ep)
    judgement = judgement.failing(*missed)
    return _row(cell, recording, judgement, gate, reason)


def _row(
    cell: CellOutputs,
    recording: Recording,
    judgement: Judgement,
    gate: Gate | None,
    unreliable: str | None = None,
) -> CellVerdict:
    return CellVerdict(
        variant=cell.variant,
        runner=cell.runner,
        target=cell.target,
        status=cell.status,
        reason="; ".join(judgement.reasons) or None,
        verdict=judgement.verdict or None,
        samples=recording.samples if cell.status == "ok" else 0,
        samples_needed=judgement.samples_needed,
        flipped=judgement.flipped,
        gate=asdict(gate) if gate else {},
        outputs={name: _detail(judgement, name) for name in judgement.outputs},
        fault=judgement.fault,
        unreliable=unreliable,
        device=cell.device,
        device_name=cell.device_name,
        provider=cell.provider,
        nodes=cell.nodes,
        placement=cell.placement,
        file=cell.file,
        precision=cell.precision,
        precision_from=cell.precision_from,
        threads=cell.threads,
        runner_version=cell.runner_version,
        **judgement.figures(),
    )


def _detail(judgement: Judgement, name: str) -> dict[str, Any]:
    """All figures of one output."""
    detail = judgement.outputs[name].to_json()
    if parts := judgement.twice.get(name):
        detail["file"], detail["kernels"] = parts.file.to_json(), parts.kernels.to_json()
        detail["kernels_limit_db"] = metrics.finite(parts.limit)
    return detail


def _without_outputs(cell: Cell, error: RunnerError) -> CellOutputs:
    return CellOutputs(
        cell.variant,
        cell.runner,
        cell.target.name,
        cell.precision,
        status_of(error),
        str(error),
        precision=cell.precision,
        device=cell.device,
        misplaced=isinstance(error, PlacementError),
        cell=cell,
    )
