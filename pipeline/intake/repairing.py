"""The stage that writes ``repaired.onnx``, and the proof that it answers as the given file does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.base import RunnerError
from ..cells import arithmetic
from ..errors import StageError
from ..judging.findings import unfused
from ..numerics import metrics
from ..numerics.precision import GIVEN, REPAIRED
from ..progress import Progress
from ..quantization.qdq import DEQUANTIZE
from ..stages import graphs
from ..stages.quantize import GIVEN_FILE, Given
from ..storage import goldens
from ..storage.goldens import Goldens
from ..storage.workspace import Transaction
from . import repair
from .quantized import INTEGER_PREFIXES
from .repair import CanNotRepair

# A rewritten file may be so much further from the reference, in dB: what rounding elsewhere does.
MARGIN_DB = 0.5


@dataclass(frozen=True)
class Repairs:
    """A rewritten file: ``data``, what was ``done`` to it, and whether every answer stays."""

    data: bytes
    done: tuple[str, ...]
    exact: bool


def repairs_of(model: Any, *, referenced: bool = True) -> Repairs | None:
    """What can be rewritten of a quantized model, ``None`` where there is nothing.

    ``referenced``: there is a float model that tells whether a rewriting that moves answers brings
    them no further. Raises ``CanNotRepair`` for a model that can't be looked into.
    """
    made = repair.unsigned(model)
    done, exact = list(made.done), made.exact
    if done and any(node.op_type.startswith(INTEGER_PREFIXES) for node in model.graph.node):
        # The same integers, which kernels for another type round otherwise in the last place.
        exact = False
        if not referenced:
            raise CanNotRepair(
                "its operators compute in integers, whose kernels round otherwise for other types: "
                "--reference names a float model that tells whether that does harm"
            )
    if referenced:
        made = repair.without_pairs(made.model, _unfused(made.model))
        done, exact = [*done, *made.done], exact and made.exact
    if not done:
        return None
    return Repairs(made.model.SerializeToString(deterministic=True), tuple(done), exact)


def _unfused(model: Any) -> set[str]:
    """The DequantizeLinear nodes that ONNX Runtime leaves behind a QuantizeLinear.

    Of those alone whose quantized tensor no operator takes as it is, which would lose its kernel.
    """
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        path = Path(folder) / GIVEN_FILE
        path.write_bytes(model.SerializeToString())
        try:
            graph = graphs.optimized(path)
        except RunnerError as error:
            raise CanNotRepair(f"ONNX Runtime can't load it: {error}") from error
    taken = {name for node in graph.node if node.op_type != DEQUANTIZE for name in node.input}
    left = set(unfused(graph))
    return {node.name for node in graph.node if node.name in left and node.input[0] not in taken}


@dataclass(frozen=True)
class Repair(Given):
    """Writes ``repaired.onnx`` and what it makes of the goldens, held against the given file's."""

    variant: str = REPAIRED
    repairs: Repairs = Repairs(b"", (), exact=True)

    @property
    def requires(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (GIVEN_FILE, arithmetic.file_of(GIVEN), goldens.FILE)

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (f"{REPAIRED}.onnx", *super().ensures)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        given = transaction.artifact(GIVEN_FILE).sha256
        return {**self._judged_by(transaction), "given": given, "done": list(self.repairs.done)}

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``. Raises ``StageError`` for a file that answers otherwise."""
        transaction.write(f"{REPAIRED}.onnx", self.repairs.data)
        said = super().run(transaction, progress)
        before, after = (
            arithmetic.Arithmetic.load(transaction.path(arithmetic.file_of(name))).outputs
            for name in (GIVEN, REPAIRED)
        )
        reference = Goldens.load(transaction.path(goldens.FILE)).fp32
        for name, expected in reference.items():
            if self.repairs.exact:
                same = np.array_equal(before[name], after[name], equal_nan=True)
                far = "" if same else "gives other answers"
            else:
                found = [metrics.sqnr_db(one[name], expected) for one in (before, after)]
                worse = found[1] < found[0] - MARGIN_DB
                far = f"is {found[1]:.1f} dB from the model, {found[0]:.1f} as given" * worse
            if far:
                raise StageError(f"--repair: the rewritten file {far}; import it without")
        for line in self.repairs.done:
            progress.say(f"{REPAIRED}  {line}")
        exact = self.repairs.exact
        kept = "the same answers, bit for bit" if exact else "no further from the reference"
        return {
            **said,
            "repaired": list(self.repairs.done),
            "exact": self.repairs.exact,
            "summary": f"{kept}; {said['summary']}",
        }
