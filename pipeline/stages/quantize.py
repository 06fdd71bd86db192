"""Stages 3 and 4: calibrate once, then write each int8 variant, and prove what was quantized.

Static post-training quantization in QDQ form, in the one shape that x86 kernels are fast and
exact for: unsigned activations with a zero point, signed symmetric weights per channel. The
``int8-avx2`` variant keeps weights to 7 bits, for CPUs without VNNI, whose int8 kernels add
pairs of products in 16 bits and saturate.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...exporters.base import ModelError
from ...runners import documents, images
from ...runners.bundles.bundle import EXACT_INT8, Variant
from ...runners.machine.installed import versions
from ..cells import arithmetic
from ..progress import Progress
from ..storage import goldens
from ..storage.arrays import Arrays
from ..storage.dataset import Dataset
from ..storage.workspace import Transaction
from . import graphs
from .native import Native
from .samples import Samples
from .simplify import FP32

CALIBRATION = "calibration.json"
REDUCED_RANGE = {"int8": False, "int8-avx2": True}
# Convolutions that may stay in float: the first one sees 3 channels, which the int8 kernels
# don't take in fours; in float it is faster and more exact.
MOST_FLOAT_CONVOLUTIONS = 1


@dataclass(frozen=True)
class Calibrate:
    """Writes ``calibration.json``: the range of every activation over the calibration images."""

    preprocessing: images.Preprocessing | None
    batch: int
    samples: Samples
    native: Native

    name = "calibrate"
    requires: tuple[str, ...] = (FP32,)
    ensures: tuple[str, ...] = (CALIBRATION,)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            "model": transaction.artifact(FP32).sha256,
            "images": self.samples.about(self._samples()),
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else {},
            "method": "MinMax",
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy", "pillow"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        with _prepared(transaction, self.native) as model:
            cache = model.with_name(CALIBRATION)
            for feeds in self._feeds():
                self.native.ask("calibrate", feeds, model=model)
            self.native.ask("ranges", output=cache)
            # The quantizer writes the tensors in the order of a set.
            try:
                ranges = documents.text(json.loads(cache.read_text()), indent=1, sort_keys=True)
            except ValueError as error:
                raise ModelError(
                    "the calibration images give activations that are NaN or infinite, which "
                    "can't be quantized; --variant fp32 exports the model without int8"
                ) from error
            transaction.write(CALIBRATION, ranges.encode())
        return {
            "images": self.samples.about(self._samples()),
            "summary": f"{len(self._samples())} samples ({self.samples.origin}), MinMax",
        }

    def _samples(self) -> Dataset | Arrays:
        assert self.samples.calibration
        return self.samples.calibration

    def _feeds(self) -> Iterator[dict[str, np.ndarray]]:
        """One batch after the other, the last one filled up."""
        some, preprocessing = self._samples(), self.preprocessing
        if not isinstance(some, Dataset):
            yield from (feeds for feeds, _, _ in some.batches(self.batch))
            return
        assert preprocessing
        for pixels, _ in some.chunks(preprocessing, self.batch):
            full = np.resize(pixels, (self.batch, *pixels.shape[1:]))
            yield {"input": images.normalize(full, preprocessing)}


def needs_of(variant: str) -> str | None:
    """What a variant asks of a CPU, see ``bundle.Variant``: 8-bit weights need exact sums."""
    return EXACT_INT8 if REDUCED_RANGE.get(variant) is False else None


def saturates(variant: str, facts: Mapping[str, Any]) -> bool:
    """Whether int8 kernels of a machine can't compute a variant exactly. See ``host.facts``."""
    return Variant({}, needs_of(variant)).saturates(facts)


@dataclass(frozen=True)
class Quantize:
    """Writes ``int8.onnx`` or ``int8-avx2.onnx``, and what the file itself makes of the goldens."""

    variant: str
    preprocessing: images.Preprocessing | None
    native: Native

    requires: tuple[str, ...] = (FP32, CALIBRATION, goldens.FILE)

    @property
    def name(self) -> str:
        """The stage is named after what it makes."""
        return self.variant

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (f"{self.variant}.onnx", arithmetic.file_of(self.variant))

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            "model": transaction.artifact(FP32).sha256,
            "calibration": transaction.artifact(CALIBRATION).sha256,
            "scheme": "QDQ, U8 activations, S8 symmetric weights per channel",
            "reduce_range": REDUCED_RANGE[self.variant],
            "goldens": transaction.artifact(goldens.FILE).sha256,
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else {},
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        with _prepared(transaction, self.native) as model:
            output = model.with_name(self.ensures[0])
            self.native.ask(
                "quantize",
                model=model,
                output=output,
                calibration=transaction.path(CALIBRATION),
                reduce_range=REDUCED_RANGE[self.variant],
            )
            own = arithmetic.compute(output, transaction.path(goldens.FILE), self.preprocessing)
            for name, data in zip(self.ensures, (output.read_bytes(), own.to_bytes()), strict=True):
                transaction.write(name, data)
            proof = kernels(output)
        floats, clips = proof["float_convolutions"], proof["clips"]
        if len(floats) > MOST_FLOAT_CONVOLUTIONS:
            progress.say(
                f"warning: {self.variant}: {len(floats)} convolutions stay in float: "
                f"{', '.join(floats)}"
            )
        if clips:
            progress.say(f"warning: {self.variant}: Clip is left at {', '.join(clips)}")
        total = proof["quantized_convolutions"] + len(floats)
        return {
            **proof,
            "summary": f"{proof['quantized_convolutions']} of {total} convolutions run as "
            f"QLinearConv, {len(clips)} Clip left",
        }


def kernels(model: Path) -> dict[str, Any]:
    """What ONNX Runtime makes of a quantized model, read from its optimized graph.

    ``quantized_convolutions`` counts QLinearConv; ``float_convolutions`` and ``clips`` name
    the nodes that are still computed in float; ``operators`` counts all kinds of nodes.
    """
    graph = graphs.optimized(model)
    operators = Counter(node.op_type for node in graph.node)
    return {
        "quantized_convolutions": operators["QLinearConv"],
        "float_convolutions": [
            node.name for node in graph.node if node.op_type in ("Conv", "FusedConv")
        ],
        "clips": [node.name for node in graph.node if node.op_type == "Clip"],
        "operators": dict(sorted(operators.items())),
    }


@contextmanager
def _prepared(transaction: Transaction, native: Native) -> Iterator[Path]:
    """``fp32.onnx`` as the quantizer prepared it, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as name:
        prepared = Path(name) / "prepared.onnx"
        native.ask("prepare", source=transaction.path(FP32), output=prepared)
        yield prepared
