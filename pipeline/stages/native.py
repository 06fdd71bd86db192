"""What export has native libraries do: onnxsim and ONNX Runtime's quantizer, in a worker.

    python -P -m edgepipe.pipeline.stages.native

They are handed arbitrary graphs. So a crash or a hang ends a worker and not the export, and the
parent loads neither library. Files are named by their paths: this worker is on this machine.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

from ...runners.base import RunnerError, RunnerUnavailable, SessionError
from ...runners.machine.files import temporary_files
from ...runners.targets import LOCAL
from ...runners.workers import protocol, worker
from ...runners.workers.launch import Worker
from ..errors import StageError

COMMAND = tuple(LOCAL.argv(module=__spec__.name))
PATIENCE_SECONDS = 3600.0
# What ``--fold-preprocessing`` puts before the first convolution.
PREPROCESSING_OPERATORS = ("Cast", "Transpose", "Slice", "Mul", "Add")

Fields = protocol.Message


class Native:
    """A worker that is asked for the operations below, by their names. A context manager.

    It starts when it is first asked, and a fresh one after one that ended: a crash costs what was
    asked for, and not what comes next.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        worker, self._worker = self._worker, None
        if worker:
            worker.close()

    def ask(
        self,
        operation: str,
        feeds: Mapping[str, np.ndarray] | None = None,
        patience: float = PATIENCE_SECONDS,
        **fields: Any,
    ) -> None:
        """Return when it is done; the fields are the operation's.

        Raises ``ImportError`` for a library that isn't there, ``StorageFull`` for a file that
        can't be written, ``StageError`` if it fails otherwise, and ``WorkerError`` if the worker
        crashes or takes more than ``patience`` seconds.
        """
        told = {
            name: str(value) if isinstance(value, Path) else value for name, value in fields.items()
        }
        try:
            self._worker = self._worker or Worker(self._command).__enter__()
            self._worker.request(operation, told, feeds or {}, patience)
        except RunnerUnavailable as error:
            raise ImportError(str(error)) from error
        except SessionError as error:
            raise StageError(f"{operation} failed: {error}") from error
        except RunnerError:
            self.__exit__()
            raise


def onnxsim(fields: Fields, _feeds: protocol.Blobs) -> None:
    """{source, output}: the model rewritten by onnxsim."""
    # onnxsim imports torch where there is one, for what isn't used here: longer than it simplifies.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(fields["source"]))
    # onnxsim gives value_info back in an order of its own.
    value_info = sorted(simplified.graph.value_info, key=lambda info: info.name)
    del simplified.graph.value_info[:]
    simplified.graph.value_info.extend(value_info)
    Path(fields["output"]).write_bytes(simplified.SerializeToString(deterministic=True))


def prepare(fields: Fields, _feeds: protocol.Blobs) -> None:
    """{source, output}: ONNX Runtime's own preparation: shapes inferred, BatchNorm folded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(fields["source"], fields["output"])


class Calibration:
    """The ranges of a model's activations, by ONNX Runtime's calibrator."""

    def __init__(self) -> None:
        self._calibrator: Any = None

    def calibrate(self, fields: Fields, feeds: protocol.Blobs) -> None:
        """{model} + feeds: take in one batch."""
        if self._calibrator is None:
            self._calibrator = _calibrator(Path(fields["model"]))
        one = iter([feeds])
        self._calibrator.collect_data(SimpleNamespace(get_next=partial(next, one, None)))

    def ranges(self, fields: Fields, _feeds: protocol.Blobs) -> None:
        """{output}: the cache of ``quantize_static``, which would quantize as well to fill it."""
        from onnxruntime.quantization import calibrate

        calibrate.save_tensors_data(self._calibrator.compute_data(), fields["output"])
        self._calibrator = None  # the next stage's memory


def quantize(fields: Fields, _feeds: protocol.Blobs) -> None:
    """{model, output, calibration, reduce_range}: the model in QDQ form."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    logging.getLogger().setLevel(logging.ERROR)  # it advises to do what was just done
    quantize_static(
        fields["model"],
        fields["output"],
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=fields["reduce_range"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_first_nodes(onnx.load(fields["model"]).graph),
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        calibration_cache_path=fields["calibration"],
    )


def _calibrator(model: Path) -> Any:
    import onnxruntime
    from onnxruntime.quantization import MinMaxCalibrater
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
    return calibrator


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


def _answering(operation: Callable[[Fields, protocol.Blobs], None]) -> worker.Operation:
    """An operation as workers have them, with what the parent tells apart from other failures."""

    def answer(fields: Fields, feeds: protocol.Blobs) -> Any:
        files = [Path(text) for text in fields.values() if isinstance(text, str)]
        size = sum(file.stat().st_size for file in files if file.is_file())
        try:
            with temporary_files(size):
                operation(fields, feeds)
        except ImportError as error:
            raise RunnerUnavailable(str(error)) from error
        return {}, {}

    return answer


def main() -> None:
    """The child: answer until the parent is gone."""
    calibration = Calibration()
    operations = (onnxsim, prepare, calibration.calibrate, calibration.ranges, quantize)
    answers = {operation.__name__: _answering(operation) for operation in operations}
    worker.main({"hello": worker.hello, **answers})


if __name__ == "__main__":
    main()
