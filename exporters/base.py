"""What an exporter is, and what can be wrong with a model that is to be exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


class ModelError(Exception):
    """The model or its weights can't be used: bad input. One line: what, and what to do."""


class ExportOptionError(Exception):
    """The exporter can't do what was asked for: an opset, a strategy, a shape."""


class MissingLibrary(Exception):
    """A library that this step needs is not installed. Says how to install it."""


@dataclass(frozen=True)
class ExportOptions:
    """``opset`` is the ONNX operator set; ``dynamic_batch`` leaves the first dimension open.

    ``half_weights``: store float32 weights as float16, for formats whose runners widen them.
    ``place`` is a path without a suffix: where an exporter may write files that are too large to
    be handed over as bytes. Others of the same name that they need may lie there, too.
    """

    opset: int
    dynamic_batch: bool
    input_names: tuple[str, ...] = ("input",)
    output_names: tuple[str, ...] = ("logits",)
    half_weights: bool = False
    place: Path | None = None


class Exporter(Protocol):
    """One way from a module to a model's files.

    ``format`` is what a runner's ``formats`` call it: "onnx", else the exporter's own name.
    ``suffixes`` are those of the files, the one that a runner is pointed to first.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def export(
        self, module: torch.nn.Module, example: Sequence[torch.Tensor], options: ExportOptions
    ) -> Mapping[str, bytes | Path]:
        """Export a module in eval mode. The same module and options give the same bytes.

        Returns the contents of each file by suffix, or where it was written: see
        ``ExportOptions.place``.
        ``example`` holds one tensor for each input, batch first. Raises ``ExportOptionError``
        if the file would not be what ``options`` ask for.
        """
        ...


@runtime_checkable
class ProgramExporter(Exporter, Protocol):
    """An exporter that may start from what ``torch.export`` made, too.

    Export makes a program of every module, for the torch runner: such an exporter saves
    tracing it again.
    """

    def export_program(
        self, program: torch.export.ExportedProgram, options: ExportOptions
    ) -> Mapping[str, bytes | Path]:
        """What ``export`` gives for the module that the program was traced from."""
        ...
