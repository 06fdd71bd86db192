"""What export has native libraries do: onnxsim, the quantizer, float16, in a worker.

    python -P -m edgepipe.pipeline.stages.native

They are handed arbitrary graphs. So a crash or a hang ends a worker and not the export, and the
parent loads neither library. Files are named by their paths: this worker is on this machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...runners.base import RunnerError, RunnerUnavailable, SessionError
from ...runners.machine.files import temporary_files
from ...runners.targets import LOCAL
from ...runners.workers import protocol, worker
from ...runners.workers.launch import Worker
from ..errors import StageError
from ..quantization.draft import opset, with_hard_swish, with_pools
from ..quantization.operations import Quantization
from .formats.work import Halving

COMMAND = tuple(LOCAL.argv(module=__spec__.name))
PATIENCE_SECONDS = 3600.0
# The operator set that brought QuantizeLinear an axis.
FIRST_PER_CHANNEL = 13

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
    ) -> protocol.Message:
        """What it replies when it is done; the fields are the operation's.

        Raises as ``compute``.
        """
        return self._answer(operation, feeds or {}, patience, fields)[0]

    def compute(
        self,
        operation: str,
        feeds: Mapping[str, np.ndarray],
        patience: float = PATIENCE_SECONDS,
        **fields: Any,
    ) -> dict[str, np.ndarray]:
        """The arrays that it replies with.

        Raises ``ImportError`` for a library that isn't there, ``StorageFull`` for a file that
        can't be written, ``StageError`` if it fails otherwise, and ``WorkerError`` if the worker
        crashes or takes more than ``patience`` seconds.
        """
        return self._answer(operation, feeds, patience, fields)[1]

    def _answer(
        self,
        operation: str,
        feeds: Mapping[str, np.ndarray],
        patience: float,
        fields: Mapping[str, Any],
    ) -> tuple[protocol.Message, dict[str, np.ndarray]]:
        told = {
            name: str(value.resolve()) if isinstance(value, Path) else value
            for name, value in fields.items()
        }
        try:
            self._worker = self._worker or Worker(self._command).__enter__()
            return self._worker.request(operation, told, feeds, patience)
        except RunnerUnavailable as error:
            raise ImportError(str(error)) from error
        except SessionError as error:
            raise StageError(f"{operation} failed: {error}") from error
        except RunnerError:
            self.__exit__()
            raise


@contextmanager
def prepared(native: Native, source: Path) -> Iterator[Path]:
    """A float model as the quantizer prepares it, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as name:
        model = Path(name) / "prepared.onnx"
        native.ask("prepare", source=source, output=model)
        yield model


def onnxsim(fields: Fields, _feeds: protocol.Blobs) -> None:
    """{source, output}: the model rewritten by onnxsim."""
    # onnxsim imports torch where there is one, for what isn't used here: longer than it simplifies.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    import onnx
    import onnxsim

    given = onnx.load(fields["source"])
    simplified, _ = onnxsim.simplify(given)
    # What it noted of its own work would be in another order, and longer, the next time.
    del simplified.metadata_props[:]
    simplified.metadata_props.extend(given.metadata_props)
    # onnxsim gives value_info back in an order of its own.
    value_info = sorted(simplified.graph.value_info, key=lambda info: info.name)
    del simplified.graph.value_info[:]
    simplified.graph.value_info.extend(value_info)
    Path(fields["output"]).write_bytes(simplified.SerializeToString(deterministic=True))


def prepare(fields: Fields, _feeds: protocol.Blobs) -> None:
    """{source, output}: ONNX Runtime's own preparation: shapes inferred, BatchNorm folded.

    A file of an operator set that can't say int8 per channel is raised to one that can. What the
    preparation takes apart and what its quantizer doesn't know is written as operators that it
    does.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(_raised(onnx.load(fields["source"])), fields["output"])
    made = with_pools(with_hard_swish(onnx.load(fields["output"])))
    onnx.save(made, fields["output"])


def _raised(model: Any) -> Any:
    """A model of a newer operator set, if need be, whose inputs are what has to be fed."""
    import onnx

    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    if 0 < opset(model) < FIRST_PER_CHANNEL:
        model = onnx.version_converter.convert_version(model, FIRST_PER_CHANNEL)
    # Files of old versions list their weights among the inputs.
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def answering(
    operation: Callable[[Fields, protocol.Blobs], Mapping[str, Any] | None],
) -> worker.Operation:
    """An operation as workers have them, with what the parent tells apart from other failures.

    Arrays in its reply travel as arrays.
    """

    def answer(fields: Fields, feeds: protocol.Blobs) -> Any:
        files = [Path(text) for text in fields.values() if isinstance(text, str)]
        size = sum(file.stat().st_size for file in files if file.is_file())
        try:
            with temporary_files(size):
                reply = operation(fields, feeds)
        except ImportError as error:
            raise RunnerUnavailable(str(error)) from error
        told = reply or {}
        arrays = {name: one for name, one in told.items() if isinstance(one, np.ndarray)}
        return {name: one for name, one in told.items() if name not in arrays}, arrays

    return answer


def main() -> None:
    """The child: answer until the parent is gone."""
    # ONNX Runtime's shape inference leaves what it fails on in the current folder.
    os.chdir(tempfile.gettempdir())
    made, halving = Quantization(), Halving()
    operations = (
        onnxsim,
        prepare,
        made.calibrate,
        made.histograms,
        made.forget,
        made.sample,
        made.held_out,
        made.quantize,
        made.costs,
        halving.watch,
        halving.halve,
    )
    answers = {operation.__name__: answering(operation) for operation in operations}
    worker.main({"hello": worker.hello, **answers})


if __name__ == "__main__":
    main()
