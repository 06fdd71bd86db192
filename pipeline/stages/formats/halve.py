"""The stage that makes fp16: watch the float model's values, convert, and say what it costs."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....exporters.base import ModelError
from ....exporters.registry import ONNX
from ....runners.machine.installed import versions
from ...cells import arithmetic
from ...numerics import metrics
from ...numerics.precision import HALF, MIN_HALF_DB
from ...progress import Progress
from ...storage import goldens
from ...storage.goldens import Goldens
from ...storage.workspace import Transaction
from ..quantize import Calibrate
from ..simplify import FP32

MIB = 1 << 20
SHOWN = 4


@dataclass(frozen=True)
class Halve:
    """Writes ``fp16.onnx``: ``fp32.onnx`` with float16 inside, its inputs and outputs float32.

    What is too large or too small for float16 is found by running the goldens, and the images of
    ``calibrate`` if there are any; the nodes at it stay float32.
    """

    calibrate: Calibrate

    name = HALF
    requires: tuple[str, ...] = (FP32, goldens.FILE)
    ensures: tuple[str, ...] = (f"{HALF}.onnx",)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        made = self.calibrate
        return {
            "model": transaction.artifact(FP32).sha256,
            "goldens": transaction.artifact(goldens.FILE).sha256,
            "images": made.about() if made.samples.calibration else None,
            "preprocessing": made.preprocessing.to_json() if made.preprocessing else {},
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        native, source = self.calibrate.native, transaction.path(FP32)
        recorded = Goldens.load(transaction.path(goldens.FILE))
        (output,) = self.ensures
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as name:
            made, rounded = Path(name) / output, Path(name) / "rounded.onnx"
            for feeds in self._feeds(recorded):
                native.ask("watch", feeds, model=source)
            told = native.ask("halve", source=source, output=made, rounded=rounded)
            if why := told.get("impossible"):
                raise ModelError(f"{HALF}: {why}; leave out --variant {HALF}")
            alone, everywhere = (
                self._distance(path, transaction, recorded) for path in (made, rounded)
            )
            data = made.read_bytes()
        transaction.write(output, data)
        if kept := _said(told["kept"], told["nodes"]):
            progress.say(f"warning: {HALF}: {kept}")
        if everywhere < MIN_HALF_DB:
            progress.say(
                f"warning: {HALF}: {_db(everywhere)} from torch with every tensor rounded to "
                f"float16, as on a GPU (parity asks for {MIN_HALF_DB:g} dB; a runner that rounds "
                "the weights alone comes nearer)"
            )
        return {
            "variant": HALF,
            "exporter": ONNX,
            **told,
            "weights_sqnr_db": metrics.finite(alone),
            "sqnr_db": metrics.finite(everywhere),
            "state": metrics.state(everywhere),
            "summary": f"{told['halves']} of {told['nodes']} nodes in float16, "
            f"{len(data) / MIB:.1f} MiB, {_db(everywhere)} from torch on the goldens",
        }

    def _feeds(self, recorded: Goldens) -> Iterator[dict[str, np.ndarray]]:
        made = self.calibrate
        for feeds, _, _ in recorded.batches(made.preprocessing, made.image_input, made.batch):
            yield feeds
        if made.samples.calibration:
            for feeds, _ in made.feeds():
                yield feeds

    def _distance(self, model: Path, transaction: Transaction, recorded: Goldens) -> float:
        """SQNR in dB of a file's worst output against torch, each node computed as it is there."""
        path = transaction.path(goldens.FILE)
        outputs = arithmetic.compute(model, path, self.calibrate.preprocessing).outputs
        return min(metrics.sqnr_db(outputs[name], recorded.fp32[name]) for name in recorded.fp32)


def _db(sqnr_db: float) -> str:
    return f"{sqnr_db:.1f} dB" if math.isfinite(sqnr_db) else "no finite distance"


def _said(kept: Sequence[Mapping[str, str]], nodes: int) -> str:
    """Which nodes stay float32 and why, in a line; nothing where none does."""
    if not kept:
        return ""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in kept:
        by_reason[one["reason"]].append(f"{one['operator']} {one['node']}")
    parts = []
    for reason, names in by_reason.items():
        more = ", …" if len(names) > SHOWN else ""
        parts.append(f"{', '.join(names[:SHOWN])}{more} ({reason})")
    return f"{len(kept)} of {nodes} nodes stay float32: {'; '.join(parts)}"
