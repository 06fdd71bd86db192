"""Stage 2: onnxsim, in a worker, and only if the model still gives the same answers.

A crash, a hang or a changed output costs the simplification and not the export: the model as
exported goes on, and the manifest says ``simplified: false`` and why.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.base import RunnerUnavailable, SessionError, WorkerError
from ...runners.images import Preprocessing
from ...runners.machine.installed import versions
from ...runners.targets import LOCAL
from ..cells.session import Cell, open_cell, run_goldens
from ..errors import InputError, StageError
from ..numerics import metrics
from ..numerics.precision import float_limit
from ..progress import Progress
from ..storage import goldens, onnx_models
from ..storage.workspace import Transaction
from .export import EXPORTED
from .native import Native

FP32 = "fp32.onnx"
PATIENCE_SECONDS = 600.0
# How much further than torch's own float32 from float64 a rewritten graph may move, in dB:
# 20 dB is ten times the error, which reordered sums stay under and a changed graph does not.
MARGIN_DB = 20.0
# Not for want of space: that isn't the model's fault.
CAN_NOT_RUN = (RunnerUnavailable, SessionError, WorkerError, InputError)


@dataclass(frozen=True)
class Simplify:
    """Writes ``fp32.onnx``, or ``output``: ``exported.onnx`` simplified, or as it is."""

    wanted: bool
    preprocessing: Preprocessing | None
    native: Native
    output: str = FP32

    name = "simplify"
    requires: tuple[str, ...] = (EXPORTED, goldens.FILE)

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (self.output,)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            "exported": transaction.artifact(EXPORTED).sha256,
            "goldens": transaction.artifact(goldens.FILE).sha256,
            "wanted": self.wanted,
            "versions": versions("edgepipe", "onnxsim", "onnx", "onnxruntime"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        exported = transaction.path(EXPORTED)
        sqnr_db, reason, died = None, "not asked for", False
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            output = Path(folder) / self.output
            if self.wanted:
                recorded = goldens.Goldens.load(transaction.path(goldens.FILE))
                try:
                    sqnr_db, reason = self._simplify(exported, output, recorded), ""
                except _Lost as lost:
                    reason, died = str(lost), isinstance(lost.__cause__, WorkerError)
            if reason:
                onnx_models.copy(exported, output)
            transaction.take(onnx_models.files(output))
        if reason and self.wanted:
            progress.say(f"warning: going on with the model as exported: {reason}")
        return {
            "wanted": self.wanted,
            "simplified": not reason,
            "reason": reason or None,
            # JSON has no infinity: equal outputs are null with "identical".
            "identical": sqnr_db == float("inf"),
            "sqnr_db": round(sqnr_db, 2)
            if sqnr_db is not None and math.isfinite(sqnr_db)
            else None,
            "summary": f"not simplified: {reason}" if reason else "same answers as exported",
            # A worker may have been killed for its memory: that another one is, too, isn't said.
            "again": died,
        }

    def _simplify(self, exported: Path, output: Path, recorded: goldens.Goldens) -> float:
        """SQNR in dB of the simplified model's outputs against the exported one's, both run.

        Equal outputs are infinitely near, also where they are not finite.
        """
        try:
            self.native.ask("onnxsim", patience=PATIENCE_SECONDS, source=exported, output=output)
        except (StageError, WorkerError, ImportError) as error:
            raise _Lost(str(error)) from error
        if not output.is_file():
            raise _Lost("onnxsim failed: it wrote no model")
        try:
            before = self._outputs(exported, recorded)
        except CAN_NOT_RUN as error:
            raise StageError(f"the exported model does not run on ort-cpu: {error}") from error
        try:
            after = self._outputs(output, recorded)
        except CAN_NOT_RUN as error:
            raise _Lost(f"onnxsim's model does not run: {error}") from error
        if list(after) != list(before):
            names = f"{', '.join(before)} to {', '.join(after)}"
            raise _Lost(f"onnxsim changed the outputs' names from {names}")
        if all(np.array_equal(after[name], before[name], equal_nan=True) for name in before):
            return float("inf")
        sqnr_db = min(metrics.sqnr_db(after[name], before[name]) for name in before)
        floor = float_limit(recorded.reference_sqnr_db, MARGIN_DB)
        if not sqnr_db >= floor:
            raise _Lost(
                f"onnxsim changed the outputs: {sqnr_db:.1f} dB against the model as exported, "
                f"at least {floor:.1f} dB expected"
            )
        return sqnr_db

    def _outputs(self, model: Path, recorded: goldens.Goldens) -> Mapping[str, np.ndarray]:
        cell = Cell("fp32", "ort-cpu", LOCAL, "f32", model.name, threads=None)
        with open_cell(cell, model) as opened:
            return run_goldens(opened, recorded, self.preprocessing)


class _Lost(Exception):
    """Why there is no simplified model."""
