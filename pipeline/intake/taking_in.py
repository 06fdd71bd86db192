"""Stages of an import: the file goes into the workspace, with what it answers to the goldens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.images import Preprocessing
from ...runners.machine.installed import versions
from ..errors import InputError
from ..progress import Progress
from ..stages import graphs
from ..stages.export import EXPORTED, described, with_scores
from ..stages.modelspec import ModelSpec
from ..stages.quantize import GIVEN_FILE
from ..stages.samples import Samples
from ..storage import goldens
from ..storage.dataset import Dataset
from ..storage.goldens import Goldens
from ..storage.workspace import Transaction
from .onnx_file import OnnxFile
from .quantized import Quantization
from .reference import Answers, Fed, answers, as_written


@dataclass(frozen=True)
class Import:
    """Writes ``exported.onnx``, a float file, or ``given.onnx``, a quantized one; and the goldens.

    Of a quantized file ``floats`` is the model behind it, if that is there: it is what answers;
    ``kind`` is how it is quantized.
    """

    spec: ModelSpec
    samples: Samples
    floats: OnnxFile | None
    quantized: OnnxFile | None
    kind: Quantization | None
    batch: int | str
    settled: Mapping[str, Any]

    name = "import"
    requires: tuple[str, ...] = ()

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``."""
        files = ((self.floats, EXPORTED), (self.quantized, GIVEN_FILE))
        return (*(name for file, name in files if file), goldens.FILE)

    @property
    def _answering(self) -> OnnxFile:
        found = self.floats or self.quantized
        assert found
        return found

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            "files": [file and dict(file.digests) for file in (self.floats, self.quantized)],
            **self._made_with(),
            "versions": versions("edgepipe", "onnx", "onnxruntime", "numpy", "pillow"),
        }

    def _made_with(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "source": {key: value for key, value in asdict(spec.source).items() if key != "path"},
            "settled": self.settled,
            "batch": self.batch,
            "preprocessing": spec.preprocessing.to_json() if spec.preprocessing else {},
            "named_inputs": list(map(str, spec.inputs)),
            "goldens": self.samples.about(self.samples.goldens),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            for file, name in ((self.floats, EXPORTED), (self.quantized, GIVEN_FILE)):
                if file:
                    transaction.take(file.save(Path(folder) / name))
        answering = self._answering
        path = transaction.path(EXPORTED if self.floats else GIVEN_FILE)
        batch = 1 if self.batch == "dynamic" else int(self.batch)
        fed = Fed(str(answering.path), *self._inputs(), answering.inputs[0].name, batch)
        macs = _macs(path)
        if self.floats:
            found = answers(path, fed, macs, progress)
        else:
            found = Answers(as_written(path, fed), {}, "it is quantized: its rounding is the model")
        recorded = Goldens(
            fed.goldens.images, fed.goldens.labels, found.fp32, found.fp64, fed.goldens.arrays
        )
        transaction.write(goldens.FILE, recorded.to_bytes())
        for doubt in self._doubts(found):
            progress.say(f"warning: {doubt}")
        outputs = with_scores(described(found.fp32), found.fp32)
        return {
            **self._made_with(),
            "parameters": answering.parameters,
            "macs": macs,
            "activation_peak_bytes": None,
            "classes": self._classes(found.fp32),
            "weights_from": None,
            "inputs": described(next(fed.runs())[0]),
            "outputs": outputs,
            "quantized": None if self.floats else str(self.kind),
            "no_program_because": "there is no module behind an imported file",
            "exporter": answering.producer or "unknown",
            "opset": answering.opsets.get("ai.onnx"),
            "reference": "float64" if found.fp64 else f"float32 only: {found.why_not_fp64}",
            **recorded.reference_json(),
            "summary": self._summary(answering),
        }

    def _summary(self, file: OnnxFile) -> str:
        made = f" of {file.producer}" if file.producer else ""
        opset = file.opsets.get("ai.onnx")
        sets = f", opset {opset}" if opset else ""
        return f"{file.path.name}{made}, {file.parameters:,} parameters{sets}"

    def _inputs(self) -> tuple[Goldens, Preprocessing | None]:
        """The goldens without answers, and how their images become the input."""
        chosen, preprocessing = self.samples.goldens, self.spec.preprocessing
        if not isinstance(chosen, Dataset):
            labels = np.full(len(chosen), -1)
            return Goldens(None, labels, {}, {}, chosen.values), None
        assert preprocessing
        ((pixels, labels),) = chosen.chunks(preprocessing, len(chosen))
        return Goldens(pixels, labels, {}, {}), preprocessing

    def _classes(self, outputs: Mapping[str, np.ndarray]) -> int | None:
        """Of a model that takes images and gives float ``[N, C]``: it is a classifier."""
        labels = self.spec.source.labels
        output = next(iter(outputs.values()))
        classifies = output.ndim == 2 and output.shape[1] > 1 and output.dtype.kind == "f"
        if self.spec.preprocessing is None or len(outputs) > 1 or not classifies:
            if labels:
                raise InputError("labels: the file is no classifier of images")
            return None
        if labels and len(labels) != output.shape[1]:
            raise InputError(f"labels: {len(labels)} names for {output.shape[1]} classes")
        return output.shape[1]

    def _doubts(self, found: Answers) -> Iterator[str]:
        """What a user has to know of these answers, a line each."""
        if self.floats is None:
            yield (
                "it is quantized and answers for itself: the runners' kernels are judged, and what "
                "quantizing cost isn't known; --reference FILE names the float model behind it"
            )
        elif found.why_not_fp64:
            yield (
                f"no float64 reference ({found.why_not_fp64}): how exact the file's float32 is "
                "isn't known, and runners are held to 60 dB instead"
            )
        for name, array in found.fp32.items():
            bad = int(np.count_nonzero(~np.isfinite(array)))
            if bad:
                yield f"{bad} of the file's own answers ({name}) are NaN or infinite"
            elif len(array) > 1 and np.all(array == array[:1]):
                yield f"{name} does not depend on the input: parity will fail as degenerate"


def _macs(path: Path) -> int | None:
    """Multiply-accumulates of a sample, ``None`` where a shape isn't known."""
    counts = [layer.macs for layer in graphs.LayerGraph(path).layers]
    return None if None in counts else sum(count or 0 for count in counts)
