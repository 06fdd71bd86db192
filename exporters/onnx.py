"""``nn.Module`` -> ONNX, by torch's two strategies; and the exported program for the torch runner.

Both files are made free of what differs from checkout to checkout: torch notes the source
path of every node, which would put this machine's folders into the model and its hash.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .base import ExportOptionError, ExportOptions

if TYPE_CHECKING:
    import torch

QUIETED = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")
KEPT_METADATA = frozenset({"pkg.torch.onnx.name_scopes"})
# Up to here a model is one file: less than protobuf's 2 GiB, since shapes, nodes and outputs are
# added on the way. The tensors of a larger one are beside it.
MOST_BYTES, DATA = (1 << 31) - (1 << 24), ".data"
BATCH = "batch"  # what an open first dimension is called


class OnnxDynamo:
    """``torch.onnx.export(dynamo=True)``: through ``torch.export``; opset 18 and later."""

    name = "onnx-dynamo"
    format = "onnx"
    suffixes = (".onnx",)

    def export(
        self, module: torch.nn.Module, example: Sequence[torch.Tensor], options: ExportOptions
    ) -> Mapping[str, bytes | Path]:
        """See ``Exporter.export``."""
        return self.export_program(trace(module, example, options), options)

    def export_program(
        self, program: torch.export.ExportedProgram, options: ExportOptions
    ) -> Mapping[str, bytes | Path]:
        """See ``ProgramExporter.export_program``."""
        import torch

        # Of a program's open dimensions only the names are taken from here.
        names = tuple({0: BATCH} for _ in options.input_names) if options.dynamic_batch else None
        with quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=options.opset,
                input_names=list(options.input_names),
                output_names=list(options.output_names),
                dynamic_shapes=names,
                external_data=False,
                verbose=False,
            )
        model = made.model
        _strip_metadata(model)
        # The exporter keeps its own opset when a conversion fails, and only logs it.
        opset = model.opset_imports.get("", 0)
        if opset != options.opset:
            raise ExportOptionError(
                f"{self.name} can't write opset {options.opset}, it would be {opset}: "
                f"use --opset {opset} or --exporter {OnnxTorchScript.name}"
            )
        written = _written(model, options)
        return {".onnx": written or made.model_proto.SerializeToString(deterministic=True)}


class OnnxTorchScript:
    """``torch.onnx.export(dynamo=False)``: the older tracer; reaches back to older opsets."""

    name = "onnx-torchscript"
    format = "onnx"
    suffixes = (".onnx",)

    def export(
        self, module: torch.nn.Module, example: Sequence[torch.Tensor], options: ExportOptions
    ) -> Mapping[str, bytes | Path]:
        """See ``Exporter.export``."""
        import torch

        names = [*options.input_names, *options.output_names]
        buffer: Any = io.BytesIO()  # taken, though the annotation only names paths
        try:
            with quiet():
                torch.onnx.export(
                    module,
                    tuple(example),
                    buffer,
                    dynamo=False,
                    opset_version=options.opset,
                    input_names=list(options.input_names),
                    output_names=list(options.output_names),
                    dynamic_axes={name: {0: BATCH} for name in names}
                    if options.dynamic_batch
                    else None,
                )
        except ValueError as error:
            raise ExportOptionError(f"{self.name}: {error}") from error
        except RuntimeError as error:
            if "2GiB" not in str(error) and "2GB" not in str(error):
                raise
            raise ExportOptionError(
                f"{self.name} writes no model of over 2 GiB, --exporter {OnnxDynamo.name} does"
            ) from error
        return {".onnx": buffer.getvalue()}


def trace(
    module: torch.nn.Module, example: Sequence[torch.Tensor], options: ExportOptions
) -> torch.export.ExportedProgram:
    """``torch.export``, with the batch left open if the options say so."""
    import torch

    with quiet():
        return torch.export.export(
            module, tuple(example), dynamic_shapes=_dynamic_shapes(module, example, options)
        )


def _written(model: Any, options: ExportOptions) -> Path | None:
    """Write a model of over 2 GiB, of onnx-ir, with its tensors beside it; ``None`` for others."""
    import onnx_ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size <= MOST_BYTES:
        return None
    if options.place is None:
        raise ExportOptionError(f"{OnnxDynamo.name}: {size} bytes need a place to be written to")
    path = options.place.with_suffix(".onnx")
    with quiet():
        onnx_ir.save(model, path, external_data=path.with_suffix(DATA).name)
    return path


def save_program(
    program: torch.export.ExportedProgram, options: ExportOptions, file: IO[bytes]
) -> None:
    """Write a ``torch.export`` program with its parameters as a file (``.pt2``).

    The archive's extra file ``io.json`` holds the names of inputs and outputs, which a program
    does not keep.
    """
    import torch

    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    names = {"inputs": options.input_names, "outputs": options.output_names}
    with quiet():
        torch.export.save(program, file, extra_files={"io.json": json.dumps(names)})


def _dynamic_shapes(
    module: torch.nn.Module, example: Sequence[torch.Tensor], options: ExportOptions
) -> Any:
    """The open batch of every input, in the shape of forward's arguments."""
    if not options.dynamic_batch:
        return None
    import torch

    shapes = [{0: torch.export.Dim(BATCH, min=1)} for _ in example]
    kinds = [one.kind for one in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:named], tuple(shapes[named:]))


def _strip_metadata(model: Any) -> None:
    model.graph.metadata_props.clear()
    for node in model.graph:
        for key in set(node.metadata_props) - KEPT_METADATA:
            del node.metadata_props[key]


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back torch's remarks about its own internals; what matters is checked above.

    It prints, too: graphs that it gave up on, to stdout as well.
    """
    loggers = [logging.getLogger(name) for name in QUIETED]
    levels = [logger.level for logger in loggers]
    unheard = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(unheard), redirect_stderr(unheard):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def raise_casts(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program as a module of float64, whose casts to float32 and float32 tensors are float64.

    For models that make float32 of whatever they get, so that they don't run in float64.
    """
    from torch.fx.node import map_aggregate

    module = program.module()
    for node in module.graph.nodes:
        node.args = map_aggregate(node.args, _raised)
        node.kwargs = map_aggregate(node.kwargs, _raised)
        if "_guards" in node.name:
            node.graph.erase_node(node)
    module.recompile()
    return module.double()


def _raised(value: Any) -> Any:
    import torch

    return torch.float64 if value is torch.float32 else value
