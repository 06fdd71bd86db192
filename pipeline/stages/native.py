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
from ..progress import SILENT
from ..quantization.draft import opset, with_hard_swish, with_pools
from ..quantization.operations import Quantization
from ..quantization.sessions import FOLDER
from ..storage import onnx_models
from .formats.work import Halving

COMMAND = tuple(LOCAL.argv(module=__spec__.name))
PATIENCE_SECONDS = 3600.0
# ONNX Runtime's names for where an optimized model's tensors are written, and from which size on.
WEIGHTS_FILE = "session.optimized_model_external_initializers_file_name"
WEIGHTS_FROM = "session.optimized_model_external_initializers_min_size_in_bytes"
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
def prepared(
    native: Native, source: Path, say: Callable[[str], None] = SILENT.say
) -> Iterator[Path]:
    """A float model as the quantizer prepares it, in a temporary folder.

    What could only be done the second way is told to ``say``.
    """
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as name:
        model = Path(name) / "prepared.onnx"
        told = native.ask("prepare", source=source, output=model)
        if reason := told.get("not_symbolic"):
            say(f"warning: sizes are inferred without the names of open ones: {reason}")
        yield model


def onnxsim(fields: Fields, _feeds: protocol.Blobs) -> None:
    """{source, output}: the model rewritten by onnxsim."""
    # onnxsim imports torch where there is one, for what isn't used here: longer than it simplifies.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    import onnxsim

    source, output = Path(fields["source"]), Path(fields["output"])
    given = onnx_models.load(source)
    if onnx_models.is_large(source):
        # It writes as it goes, to a file with a name of its own for the tensors.
        written = output.with_name(f"onnxsim-{output.name}")
        onnxsim.simplify(str(source), output_path=str(written))
        simplified = onnx_models.load(written)
    else:
        simplified, _ = onnxsim.simplify(given)
    # What it noted of its own work would be in another order, and longer, the next time.
    del simplified.metadata_props[:]
    simplified.metadata_props.extend(given.metadata_props)
    # onnxsim gives value_info back in an order of its own.
    value_info = sorted(simplified.graph.value_info, key=lambda info: info.name)
    del simplified.graph.value_info[:]
    simplified.graph.value_info.extend(value_info)
    onnx_models.save(simplified, output)


def prepare(fields: Fields, _feeds: protocol.Blobs) -> Mapping[str, Any]:
    """{source, output}: ONNX Runtime's own preparation: shapes inferred, BatchNorm folded.

    A file of an operator set that can't say int8 per channel is raised to one that can. What the
    preparation takes apart and what its quantizer doesn't know is written as operators that it
    does. Replies {not_symbolic}: why shapes are inferred without symbols, or null.
    """
    source, output = Path(fields["source"]), Path(fields["output"])
    large = onnx_models.is_large(source)
    prepared = _prepared_by_file if large else _prepared_in_memory
    reason = None
    try:
        made = prepared(source, output, symbols=True)
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # of whatever kind its Python met
        # Symbols of an open batch may not meet again, as in a pyramid of resized features. ONNX's
        # own inference, which comes last in any case, can do without them.
        made, reason = prepared(source, output, symbols=False), f"{type(error).__name__}: {error}"
    onnx_models.save(with_pools(with_hard_swish(made)), output)
    return {"not_symbolic": reason}


def _prepared_in_memory(source: Path, output: Path, *, symbols: bool) -> Any:
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = _raised(onnx_models.load(source))
    if symbols:
        quant_pre_process(model, str(output))
    else:
        # A file: without symbols it loses the weights of a model that is handed over in memory.
        raised = output.with_name("raised.onnx")
        onnx.save(model, raised)
        quant_pre_process(str(raised), str(output), skip_symbolic_shape=True)
    return onnx_models.load(output)


def _prepared_by_file(source: Path, output: Path, *, symbols: bool) -> Any:
    """As ``quant_pre_process`` does it, which holds a model three times in memory.

    Shapes are told from the graph alone, and ONNX Runtime writes what it folds to a file.
    """
    import onnx
    import onnxruntime
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    model = _raised(onnx_models.load(source))
    if symbols:
        model = SymbolicShapeInference.infer_shapes(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(output)
    options.add_session_config_entry(WEIGHTS_FILE, output.with_suffix(onnx_models.DATA).name)
    options.add_session_config_entry(WEIGHTS_FROM, str(onnx_models.SMALL_BYTES))
    data, folder = onnx_models.beside_of(model)
    options.add_session_config_entry(FOLDER, str(folder))
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return onnx.shape_inference.infer_shapes(onnx_models.load(output))


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
