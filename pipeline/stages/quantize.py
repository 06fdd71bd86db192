"""Stages 3 and 4: calibrate once, then write each int8 variant, and prove what was quantized.

Static post-training quantization in QDQ form, in the one shape that x86 kernels are fast and
exact for: unsigned activations with a zero point, signed symmetric weights per channel. The
``int8-avx2`` variant keeps weights to 7 bits, for CPUs without VNNI, whose int8 kernels add
pairs of products in 16 bits and saturate.
"""

from __future__ import annotations

import json
import logging
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
from ..storage.atomic import writing
from ..storage.dataset import Dataset
from ..storage.workspace import Transaction
from . import graphs
from .samples import Samples
from .simplify import FP32

CALIBRATION = "calibration.json"
REDUCED_RANGE = {"int8": False, "int8-avx2": True}
# Convolutions that may stay in float: the first one sees 3 channels, which the int8 kernels
# don't take in fours; in float it is faster and more exact.
MOST_FLOAT_CONVOLUTIONS = 1
# What ``--fold-preprocessing`` puts before the first convolution.
PREPROCESSING_OPERATORS = ("Cast", "Transpose", "Slice", "Mul", "Add")


@dataclass(frozen=True)
class Calibrate:
    """Writes ``calibration.json``: the range of every activation over the calibration images."""

    preprocessing: images.Preprocessing | None
    batch: int
    samples: Samples

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
        with _prepared(transaction) as model:
            cache = model.with_name(CALIBRATION)
            self._calibrate(model, cache)
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

    def _calibrate(self, model: Path, cache: Path) -> None:
        """Fill the cache of ``quantize_static``, which would quantize as well to do it."""
        import onnxruntime
        from onnxruntime.quantization import MinMaxCalibrater, calibrate
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        augmented = str(model.with_name("augmented.onnx"))
        operators = sorted({*QLinearOpsRegistry, *QDQRegistry})
        calibrator = MinMaxCalibrater(model, operators, augmented)
        calibrator.augment_graph()
        # The session that it would make optimizes nothing and spins: twice the CPU time.
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        calibrator.infer_session = onnxruntime.InferenceSession(
            augmented, options, providers=calibrator.execution_providers
        )
        calibrator.collect_data(self._reader())
        calibrate.save_tensors_data(calibrator.compute_data(), cache)

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

    def _reader(self) -> Any:
        from onnxruntime.quantization import CalibrationDataReader

        feeds = self._feeds()

        class Reader(CalibrationDataReader):
            """Hands the feeds to ONNX Runtime."""

            def get_next(self) -> Any:
                return next(feeds, None)

        return Reader()


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
        with _prepared(transaction) as model:
            output = model.with_name(self.ensures[0])
            reduce_range = REDUCED_RANGE[self.variant]
            _quantize(model, output, transaction.path(CALIBRATION), reduce_range)
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
def _prepared(transaction: Transaction) -> Iterator[Path]:
    """``fp32.onnx`` after ONNX Runtime's own preparation: shapes inferred, BatchNorm folded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        with writing(Path(folder)):
            quant_pre_process(transaction.path(FP32), prepared)
        yield prepared


def _quantize(model: Path, output: Path, calibration: Path, reduce_range: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    first = _first_nodes(onnx.load(model).graph)
    quantize_static(
        model,
        output,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=first,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        calibration_cache_path=calibration,
    )


def _first_nodes(graph: Any) -> list[str]:
    """The convolutions that see the input, with the preprocessing that may stand before them."""
    raw = {value.name for value in graph.input}
    found = []
    for node in graph.node:
        if raw.isdisjoint(node.input):
            continue
        if node.op_type in PREPROCESSING_OPERATORS:
            raw.update(node.output)
        if node.op_type in (*PREPROCESSING_OPERATORS, "Conv"):
            found.append(node.name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the quantizer's advice to do what was just done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
