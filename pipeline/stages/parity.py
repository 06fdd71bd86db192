"""parity: are a cell's answers still torch's? Runs the goldens through every cell and judges.

The outputs are kept in ``parity.npz``, so that other gates can be tried without running
anything again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runners.base import PlacementError, RunnerError
from .. import goldens as recorded
from .. import placement
from ..cells import Cell, Opener, exit_code, plan, run_goldens, status_of
from ..config import Config
from ..errors import ExitCode, InputError
from ..gates import FAIL, Distance, Gate, Judgement, default_gate, judge, kind_of
from ..manifest import Manifest
from ..progress import Progress
from ..sections import GateConfig
from ..workspace import Workspace

if TYPE_CHECKING:
    from ..explanation import Explanation

SCHEMA_VERSION = 1
OUTPUTS_FILE = "parity.npz"
RESULT_FILE = "parity.json"


@dataclass(frozen=True)
class CellOutputs:
    """What running a cell gave, before anybody judges it. Goes into ``parity.npz``.

    ``asked`` is the precision that was asked for, ``precision`` the one read back (or known
    otherwise: ``precision_from``). ``placement`` is the per cent of the nodes on each provider,
    ``provider`` the one asked for; ``misplaced`` says that it failed for being elsewhere.
    """

    variant: str
    runner: str
    target: str
    asked: str
    status: str
    reason: str | None = None
    file: str | None = None
    precision: str | None = None
    threads: int | None = None
    runner_version: str | None = None
    device: str | None = None
    device_name: str | None = None
    provider: str | None = None
    precision_from: str | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    placement: Mapping[str, float] = field(default_factory=dict)
    convolutions: Mapping[str, int] = field(default_factory=dict)
    misplaced: bool = False
    host: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """Outputs of all cells together with torch's for the same goldens."""

    model: Mapping[str, Any]
    artifacts: Mapping[str, str]
    reference_sqnr_db: float
    reference: Mapping[str, np.ndarray]
    cells: tuple[CellOutputs, ...]

    @property
    def samples(self) -> int:
        """How many goldens were run."""
        return len(next(iter(self.reference.values())))

    def to_bytes(self) -> bytes:
        """As ``.npz``: the arrays, and everything else as JSON beside them."""
        arrays = {f"reference/{name}": array for name, array in self.reference.items()}
        about = []
        for number, cell in enumerate(self.cells):
            arrays |= {f"cell{number}/{name}": array for name, array in cell.arrays.items()}
            fields = {key: value for key, value in vars(cell).items() if key != "arrays"}
            about.append(fields)
        document = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "artifacts": self.artifacts,
            "reference_sqnr_db": self.reference_sqnr_db,
            "cells": about,
        }
        arrays["about"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what ``to_bytes`` wrote. Raises ``InputError`` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            document = json.loads(arrays.pop("about").tobytes())
            if document["schema_version"] != SCHEMA_VERSION:
                raise InputError(f"{path}: schema {document['schema_version']}, not readable here")
            cells = tuple(
                CellOutputs(**about, arrays=_under(arrays, f"cell{number}/"))
                for number, about in enumerate(document["cells"])
            )
            return cls(
                document["model"],
                document["artifacts"],
                document["reference_sqnr_db"],
                _under(arrays, "reference/"),
                cells,
            )
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except InputError:
            raise
        except Exception as error:  # a damaged archive fails in many ways inside zipfile and numpy
            raise InputError(f"{path}: not a parity recording ({error})") from error


@dataclass(frozen=True)
class CellVerdict:
    """A cell's row in ``parity.json``. For several outputs the figures are the worst ones."""

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
    gate: Mapping[str, float]
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

    def figures(self) -> dict[str, float | None]:
        """What a report shows beside the verdict."""
        return {
            "SQNR dB": self.sqnr_db,
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
    explanations: tuple[Explanation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document: JSON values only."""
        document = asdict(replace(self, explanations=()))
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
    broken: Mapping[str, str] = {}
    if cells is None:
        cells, broken = plan(manifest, config, config.parity)
    goldens = recorded.Goldens.load(workspace.folder / recorded.FILE)
    preprocessing = recorded.preprocessing_of(manifest)
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
                )
            )
    progress.step(1, 1, "")
    found += [
        CellOutputs("", runner, "", "", "unavailable", reason) for runner, reason in broken.items()
    ]
    return Recording(
        model=manifest.model,
        artifacts=manifest.digests,
        reference_sqnr_db=goldens.reference_sqnr_db,
        reference={name: array[:count] for name, array in goldens.fp32.items()},
        cells=tuple(found),
    )


def judge_all(recording: Recording, config: Config) -> ParityResult:
    """Judge recorded outputs under the gates of ``config``; runs nothing."""
    cells = tuple(_judge_cell(cell, recording, config) for cell in recording.cells)
    required = config.parity.require_ep
    problems = placement.unmet([cell.provider or "" for cell in recording.cells], required)
    return ParityResult(
        model=recording.model,
        artifacts=recording.artifacts,
        hosts={cell.target: cell.host for cell in recording.cells if cell.host},
        reference_sqnr_db=recording.reference_sqnr_db,
        cells=cells,
        problems=problems,
        exit_code=ExitCode.GATE_FAILED if problems else exit_code(cells, config.parity),
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


def _judge_cell(cell: CellOutputs, recording: Recording, config: Config) -> CellVerdict:
    if cell.status != "ok":
        verdict = FAIL if cell.misplaced else ""
        return _row(cell, recording, Judgement(verdict, (cell.reason or "",)), None)
    gate = gate_for(cell, recording, config)
    classifier = recording.model.get("classes", 0) is not None
    judgement = judge(cell.arrays, recording.reference, gate, classifier)
    if cell.precision != cell.asked:
        reason = f"computed in {cell.precision}, {cell.asked} was asked for"
        reasons = (reason, *judgement.reasons)
        judgement = Judgement(FAIL, reasons, None, judgement.outputs)
    if missed := placement.missed(cell.placement, cell.provider or "", config.parity.require_ep):
        judgement = Judgement(FAIL, (*missed, *judgement.reasons), None, judgement.outputs)
    return _row(cell, recording, judgement, gate)


def _row(
    cell: CellOutputs, recording: Recording, judgement: Judgement, gate: Gate | None
) -> CellVerdict:
    distances = list(judgement.outputs.values())
    worst = {
        "sqnr_db": _worst(distances, "sqnr_db", min),
        "max_abs": _worst(distances, "max_abs", max),
        "max_rel": _worst(distances, "max_rel", max),
        "cosine": _worst(distances, "cosine", min),
        "top1_agreement": _worst(distances, "top1_agreement", min),
        "top1_agreement_clear": _worst(distances, "top1_agreement_clear", min),
        "top5_agreement": _worst(distances, "top5_agreement", min),
    }
    return CellVerdict(
        variant=cell.variant,
        runner=cell.runner,
        target=cell.target,
        status=cell.status,
        reason="; ".join(judgement.reasons) or None,
        verdict=judgement.verdict or None,
        samples=recording.samples if cell.status == "ok" else 0,
        samples_needed=judgement.samples_needed,
        flipped=sorted({index for distance in distances for index in distance.flipped}),
        gate=asdict(gate) if gate else {},
        outputs={name: distance.to_json() for name, distance in judgement.outputs.items()},
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
        **worst,
    )


def _worst(distances: Sequence[Distance], name: str, choose: Any) -> float | None:
    """The worst of a figure over the outputs; ``None`` where it is infinite or doesn't apply."""
    values = [getattr(distance, name) for distance in distances]
    values = [value for value in values if value is not None]
    if not values or not np.isfinite(choose(values)):
        return None
    return float(choose(values))


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
    )


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
