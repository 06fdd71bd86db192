"""The steps from torch to a runner: each file on the reference executor, then the cell itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...runners.base import RunnerError
from ...runners.images import Preprocessing
from ..cells.arithmetic import executor
from ..cells.session import Cell, open_cell, run_goldens
from ..numerics import metrics
from ..settings.judging import GateConfig
from ..stages.export import EXPORTED
from ..stages.simplify import FP32
from ..storage.goldens import Goldens
from ..verdicts import FAIL, PASS
from .explanation import Step
from .gates import FILE, Gate, default_gate, judge
from .parity_result import CellVerdict, gate_for
from .recording import CellOutputs, Recording

TORCH, EXPORT, SIMPLIFY, QUANTIZE, RUN = "torch", "exported", "simplified", "quantized", "runner"

Outputs = Mapping[str, np.ndarray] | RunnerError


@dataclass
class Walk:
    """What the cells of one workspace have in common on their way; each file is run once."""

    folder: Path
    goldens: Goldens
    preprocessing: Preprocessing | None
    recording: Recording
    limits: Mapping[str, GateConfig]
    _outputs: dict[str, Outputs] = field(default_factory=dict)

    @property
    def exact(self) -> Gate:
        """The limits of a file in float32, or of one that was quantized before its export."""
        kind = "int8" if self.recording.model.get("quantized") else "f32"
        strict = default_gate(kind, self.recording.reference_sqnr_db)
        return replace(strict, min_top1=0.0)

    def steps(self, cell: Cell, outputs: CellOutputs, row: CellVerdict) -> list[Step]:
        """From torch to the cell's own outputs. ``row`` is what parity says of them.

        The last step has parity's own verdict, and a quantized file fails where parity finds the
        file at fault, so that verdict and explanation can't disagree.
        """
        before: Outputs = self.recording.reference
        steps: list[Step] = []
        if row.unreliable:
            distance = self.recording.reference_sqnr_db
            steps.append(Step(TORCH, "float32", distance, distance, FAIL, row.unreliable))
        for name, file in ((EXPORT, EXPORTED), (SIMPLIFY, FP32)):
            if not (self.folder / file).is_file():  # of a quantized file with no model behind it
                continue
            after = self._executed(file)
            steps.append(self._step(name, file, before, after, *self._judged(after, self.exact)))
            before = after
        if cell.file != FP32:
            own = self.recording.own.get(cell.variant)
            after = self._executed(cell.file) if own is None else own
            if own is None or row.status != "ok":
                said = self._judged(after, gate_for(outputs, self.recording, self.limits))
            else:
                said = (FAIL, row.reason) if row.fault == FILE else (PASS, None)
            steps.append(self._step(QUANTIZE, cell.file, before, after, *said))
            before = after
        after = outputs.arrays
        if outputs.status != "ok":
            after = RunnerError(outputs.reason or outputs.status)
        verdict = FAIL if row.verdict == FAIL else PASS
        steps.append(self._step(RUN, cell.runner, before, after, verdict, row.reason))
        return steps

    def _judged(self, after: Outputs, gate: Gate) -> tuple[str, str | None]:
        """A file's outputs under a gate: verdict and reason."""
        if isinstance(after, RunnerError):
            return FAIL, None
        judgement = judge(after, self.recording.reference, gate)
        verdict = FAIL if judgement.verdict == FAIL else PASS
        return verdict, "; ".join(judgement.reasons) or None

    def _step(
        self,
        name: str,
        file: str,
        before: Outputs,
        after: Outputs,
        verdict: str,
        reason: str | None,
    ) -> Step:
        if isinstance(after, RunnerError):
            return Step(name, file, -math.inf, -math.inf, FAIL, str(after))
        added = -math.inf if isinstance(before, RunnerError) else _distance(after, before)
        return Step(name, file, _distance(after, self.recording.reference), added, verdict, reason)

    def _executed(self, file: str) -> Outputs:
        """The outputs of a file on the reference executor, for all samples."""
        if file not in self._outputs:
            try:
                with open_cell(executor(file), self.folder / file) as opened:
                    self._outputs[file] = run_goldens(
                        opened, self.goldens, self.preprocessing, self.recording.samples
                    )
            except RunnerError as error:
                self._outputs[file] = error
        return self._outputs[file]


def _distance(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """SQNR in dB of the worst output; minus infinity where they can't be compared."""
    worst = math.inf
    for name, expected in reference.items():
        found = outputs.get(name)
        if found is None or found.shape != expected.shape:
            return -math.inf
        worst = min(worst, metrics.sqnr_db(found, expected))
    return worst
