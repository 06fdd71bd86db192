"""``nn.Module`` -> OpenVINO IR, a graph (.xml) with its weights (.bin), without ONNX between."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import ExportOptionError, ExportOptions, MissingLibrary
from .onnx import quiet, trace
from .own.torchscript import holds

if TYPE_CHECKING:
    import torch


class OpenVinoIr:
    """``openvino-ir``: the exported program, converted; float16 weights if asked for.

    TorchScript, of which there is no program, is converted as it is.
    """

    name = format = "openvino-ir"
    suffixes = (".xml", ".bin")

    def export(
        self, module: torch.nn.Module, example: Sequence[torch.Tensor], options: ExportOptions
    ) -> Mapping[str, bytes | Path]:
        """See ``Exporter.export``."""
        openvino = _library()
        with _quiet():
            if holds(module):
                model = openvino.convert_model(module, example_input=tuple(example))
            else:
                model = openvino.convert_model(trace(module, example, options))
        _rename(model.inputs, options.input_names)
        _rename(model.outputs, options.output_names)
        # The converter leaves more dimensions open than the program does.
        rows = -1 if options.dynamic_batch else len(example[0])
        shapes = zip(model.inputs, example, strict=True)
        model.reshape({port: [rows, *tensor.shape[1:]] for port, tensor in shapes})
        # The converter names nodes by counting all that the process has made so far.
        for number, node in enumerate(model.get_ordered_ops()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
        model.set_friendly_name(type(module).__name__)
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            path = (options.place or Path(folder) / "model").with_suffix(".xml")
            openvino.save_model(model, path, compress_to_fp16=options.half_weights)
            files = {suffix: path.with_suffix(suffix) for suffix in self.suffixes}
            if options.place:
                return files
            return {suffix: file.read_bytes() for suffix, file in files.items()}


def _library() -> Any:
    # openvino reports its import and every conversion through this package, if it finds it.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        import openvino
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[openvino,export]"') from error
    return openvino


def _rename(ports: Sequence[Any], names: Sequence[str]) -> None:
    if len(ports) != len(names):
        raise ExportOptionError(
            f"openvino-ir: the model has {len(ports)} inputs or outputs, not {', '.join(names)}"
        )
    for port, name in zip(ports, names, strict=True):
        port.set_names({name})


@contextmanager
def _quiet() -> Iterator[None]:
    """Also the root logger, whom the converter tells which operations this torch lacks."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        root.setLevel(level)
