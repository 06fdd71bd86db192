"""Stage 2: onnxsim, in a child process, and only if the model still gives the same answers.

onnxsim is native code that is handed arbitrary graphs. A crash, a hang or a changed output
costs the simplification and not the export: the model as exported goes on, and the manifest
says ``simplified: false`` and why.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.base import RunnerError
from ...runners.images import Preprocessing
from ...runners.machine.installed import versions
from ...runners.targets import LOCAL
from ...runners.workers.launch import signal_name
from ..cells.session import Cell, open_cell, run_goldens
from ..errors import InputError, StageError
from ..numerics import metrics
from ..numerics.limits import float_limit
from ..progress import Progress
from ..storage import goldens
from ..storage.workspace import Transaction
from .export import EXPORTED

FP32 = "fp32.onnx"
TIMEOUT_SECONDS = 600
# How much further than torch's own float32 from float64 a rewritten graph may move, in dB:
# 20 dB is ten times the error, which reordered sums stay under and a changed graph does not.
MARGIN_DB = 20.0
SIMPLIFIER = (sys.executable, "-P", "-m", __name__)


@dataclass(frozen=True)
class Simplify:
    """Writes ``fp32.onnx``: simplified, or ``exported.onnx`` as it is."""

    wanted: bool
    preprocessing: Preprocessing | None
    simplifier: tuple[str, ...] = SIMPLIFIER

    name = "simplify"
    requires: tuple[str, ...] = (EXPORTED, goldens.FILE)
    ensures: tuple[str, ...] = (FP32,)

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
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            output = Path(folder) / FP32
            reason = self._simplify(exported, output) if self.wanted else "not asked for"
            sqnr_db = None
            if not reason:
                recorded = goldens.Goldens.load(transaction.path(goldens.FILE))
                sqnr_db, reason = self._compare(exported, output, recorded)
                floor = float_limit(recorded.reference_sqnr_db, MARGIN_DB)
                if not reason and sqnr_db < floor:
                    reason = (
                        f"onnxsim changed the outputs: {sqnr_db:.1f} dB against the model as "
                        f"exported, at least {floor:.1f} dB expected"
                    )
            transaction.write(FP32, (exported if reason else output).read_bytes())
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
        }

    def _simplify(self, source: Path, output: Path) -> str:
        """Run the simplifier. Returns why it failed, or an empty string."""
        try:
            done = subprocess.run(
                [*self.simplifier, str(source), str(output)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"onnxsim did not end within {TIMEOUT_SECONDS} s"
        if done.returncode < 0:
            return f"onnxsim crashed with {signal_name(-done.returncode)}"
        if done.returncode or not output.is_file():
            lines = done.stderr.strip().splitlines() or ["no message"]
            return f"onnxsim failed: {lines[-1][:200]}"
        return ""

    def _compare(
        self, exported: Path, simplified: Path, recorded: goldens.Goldens
    ) -> tuple[float, str]:
        """SQNR in dB of the simplified model's outputs against the exported one's, both run.

        With what else is wrong with them, or an empty string. Equal outputs are infinitely near,
        also where they are not finite.
        """
        outputs = []
        for path in (exported, simplified):
            cell = Cell("fp32", "ort-cpu", LOCAL, "f32", path.name, threads=None)
            try:
                with open_cell(cell, path) as opened:
                    outputs.append(run_goldens(opened, recorded, self.preprocessing))
            except (RunnerError, InputError) as error:
                if path == exported:
                    raise StageError(
                        f"the exported model does not run on ort-cpu: {error}"
                    ) from error
                return float("-inf"), f"onnxsim's model does not run: {error}"
        before, after = outputs
        if list(after) != list(before):
            names = f"{', '.join(before)} to {', '.join(after)}"
            return float("-inf"), f"onnxsim changed the outputs' names from {names}"
        if all(np.array_equal(after[name], before[name], equal_nan=True) for name in before):
            return float("inf"), ""
        return min(metrics.sqnr_db(after[name], before[name]) for name in before), ""


def main(source: str, output: str) -> None:
    """The child: simplify ``source`` into ``output``."""
    # onnxsim imports torch where there is one, for what isn't used here: longer than it simplifies.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(source))
    # onnxsim gives value_info back in an order of its own.
    value_info = sorted(simplified.graph.value_info, key=lambda info: info.name)
    del simplified.graph.value_info[:]
    simplified.graph.value_info.extend(value_info)
    Path(output).write_bytes(simplified.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
