"""inspect: what an ONNX file says of itself, and which runners here take it; nothing is run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...runners import registry
from ...runners.base import RunnerError
from ..cells.plan import abilities_of, python_of
from ..cells.session import Cell, open_cell, status_of
from ..errors import ExitCode, InputError
from ..judging.findings import Finding
from ..settings.judging import InspectRequest
from ..settings.load import load
from ..settings.machine import Places
from ..settings.options import takes
from ..storage.document import UNWRITTEN, Document
from . import onnx_file
from .fixing import batch_of
from .onnx_file import OnnxFile, Tensor
from .quantized import Quantization, quantization_of, troubles_of

ONNX = "onnx"


@dataclass(frozen=True)
class RunnerAnswer:
    """What a runner makes of a file: ``status`` is "ok", "failed" or "unavailable".

    ``nodes`` are those of its optimized graph by where they run.
    """

    runner: str
    status: str
    reason: str | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection(Document):
    """An ONNX file as it says of itself.

    ``files`` are the SHA-256 of all that it was read from, ``size_bytes`` is that of all of them.
    ``unsettled`` is why it can't be fed as it is, ``None`` if it can. ``findings`` are what makes a
    quantized file slow or wrong on x86.
    """

    MADE_BY = "edgepipe inspect"

    file: str
    files: Mapping[str, str]
    size_bytes: int
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    metadata: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: int
    operators: Mapping[str, int]
    quantization: Quantization | None
    unsettled: str | None
    findings: tuple[Finding, ...]
    runners: tuple[RunnerAnswer, ...]
    exit_code: int = field(default=ExitCode.OK, metadata=UNWRITTEN)


@takes(InspectRequest)
def inspect(request: InspectRequest) -> Inspection:
    """Read an ONNX file and ask the runners that are here whether they take it.

    Nothing is computed. ``file`` is its path, ``runners`` those to ask, by default all that take
    ONNX; a named one that doesn't take it makes the ``exit_code`` 1. Raises ``InputError`` for
    what is no ONNX file.
    """
    places = load(request.flags()).places
    file = onnx_file.read(request.file)
    # Now, since it takes seconds to ask runners, in which a file can go.
    size = sum((file.path.parent / name).stat().st_size for name in file.digests)
    asked = request.runners or registry.names()
    answers = []
    for number, runner in enumerate(asked):
        request.progress.step(number, len(asked), runner)
        if (answer := _ask(runner, file, places)) or runner in request.runners:
            answers.append(answer or RunnerAnswer(runner, "failed", f"{runner} takes no ONNX"))
    request.progress.step(1, 1, "")
    kind = quantization_of(file.model)
    refused = any(one.status != "ok" for one in answers if one.runner in request.runners)
    return Inspection(
        file=str(file.path),
        files=file.digests,
        size_bytes=size,
        ir_version=file.model.ir_version,
        opsets=file.opsets,
        producer=file.producer,
        metadata=file.metadata,
        inputs=file.inputs,
        outputs=file.outputs,
        parameters=file.parameters,
        operators=file.operators,
        quantization=kind,
        unsettled=_unsettled(file),
        findings=tuple(troubles_of(kind)),
        runners=tuple(answers),
        exit_code=ExitCode.GATE_FAILED if refused else ExitCode.OK,
    )


def _unsettled(file: OnnxFile) -> str | None:
    try:
        batch_of(file, file.inputs)
    except InputError as error:
        return str(error)
    return None


def _ask(runner: str, file: OnnxFile, places: Places) -> RunnerAnswer | None:
    """Whether a session of the file comes about; ``None`` for a runner of other formats."""
    try:
        if ONNX not in abilities_of(runner, places).formats:
            return None
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            path = Path(folder) / "model.onnx"
            file.save(path)
            cell = Cell(
                *("", runner, places.target("local"), "f32", path.name, 1),
                python=python_of(runner, places),
                device=places.device_of(runner),
                allow_fallback=True,
            )
            with open_cell(cell, path) as opened:
                return RunnerAnswer(runner, "ok", None, dict(opened.loaded.placement.nodes))
    except RunnerError as error:
        return RunnerAnswer(runner, status_of(error), str(error))
