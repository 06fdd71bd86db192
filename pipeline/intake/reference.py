"""What a file itself answers: the reference that runners are held against, and how exact it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runners.base import RunnerError
from ...runners.images import Preprocessing
from ..cells.arithmetic import executor
from ..cells.session import open_cell, run_goldens
from ..errors import InputError, StageError
from ..numerics import metrics
from ..progress import Progress
from ..stages.native import Native
from ..storage import onnx_models
from ..storage.goldens import Goldens, valid_rows
from . import float64

# As many samples are computed in float64 as take about this many multiply-accumulates: more would
# take minutes. A distance is told from a few as well.
MOST_MACS, FEWEST = 40e9, 4
PATIENCE_SECONDS = 600.0
# The evaluator's float32 is as near as this to ONNX Runtime's if it computes the same thing: an
# operator that it gets wrong gives some 10 dB, a model that is hard on float32 50 and more.
SAME_DB = 30.0
MOST_OF_A_REASON = 200


@dataclass(frozen=True)
class Fed:
    """What a file is fed: ``goldens`` without answers yet, ``batch`` of them in a run.

    ``file`` is what its user calls it, ``name`` the input that takes images, if there are images.
    """

    file: str
    goldens: Goldens
    preprocessing: Preprocessing | None
    name: str
    batch: int

    def runs(self, count: int | None = None) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """The feeds of each run, and how many rows of its outputs count."""
        for feeds, _, valid in self.goldens.batches(
            self.preprocessing, self.name, self.batch, count
        ):
            yield feeds, valid


@dataclass(frozen=True)
class Answers:
    """``fp32`` by output, ``[N, ...]``; ``fp64`` the first of them in float64, or why not."""

    fp32: Mapping[str, np.ndarray]
    fp64: Mapping[str, np.ndarray]
    why_not_fp64: str | None = None


def answers(model: Path, fed: Fed, macs: int | None, progress: Progress) -> Answers:
    """Run a float file node by node, in float32 and, where that can be, in float64.

    ``macs`` are its multiply-accumulates for a sample. Raises ``InputError`` for a file that
    ONNX Runtime's CPU provider can't take as it is.
    """
    single = as_written(model, fed)
    count = max(FEWEST, int(MOST_MACS // max(macs or 0, 1)))
    if onnx_models.is_large(model):
        count = FEWEST  # each run makes doubles of all weights
    some = {name: array[:count] for name, array in single.items()}
    with Native(float64.COMMAND) as native:
        try:
            first = _evaluated(native, model, fed, raised=False, count=1)
            one = {name: array[:1] for name, array in single.items()}
            if told := _misshapen(first, one) or _unlike(first, one):
                return Answers(single, {}, told)
            progress.say("import    computing the reference in float64")
            double = _evaluated(native, model, fed, raised=True, count=count)
        except (StageError, RunnerError, ImportError, KeyError, ValueError) as error:
            return Answers(single, {}, _short(error))
    if told := _misshapen(double, some):
        return Answers(single, {}, told)
    for name, array in some.items():
        if array.dtype.kind == "f" and double[name].dtype != np.float64:
            return Answers(single, {}, f"{name} stays {double[name].dtype}")
    return Answers(single, {name: double[name] for name in single})


def as_written(model: Path, fed: Fed) -> dict[str, np.ndarray]:
    """All outputs of a file that ONNX Runtime computes with every optimization off.

    Raises ``InputError`` if it can't.
    """
    try:
        with open_cell(executor(model.name), model) as opened:
            found = run_goldens(opened, fed.goldens, fed.preprocessing)
    except RunnerError as error:
        raise InputError(f"{fed.file}: ONNX Runtime can't run it: {error}") from error
    for name, array in found.items():
        if array.dtype.kind not in "fiub":
            raise InputError(f"{fed.file}: its output {name} is {array.dtype}: no numbers")
        if not array.size:
            raise InputError(f"{fed.file}: its output {name} is {list(array.shape)}: no values")
    return found


def _evaluated(
    native: Native, model: Path, fed: Fed, *, raised: bool, count: int | None = None
) -> dict[str, np.ndarray]:
    native.ask("load", model=model, raised=raised)
    parts: dict[str, list[np.ndarray]] = {}
    for feeds, valid in fed.runs(count):
        for output, array in native.compute("evaluate", feeds, PATIENCE_SECONDS).items():
            parts.setdefault(output, []).append(valid_rows(array, fed.batch, valid))
    return {output: np.concatenate(arrays) for output, arrays in parts.items()}


def _misshapen(found: Mapping[str, np.ndarray], runtime: Mapping[str, np.ndarray]) -> str | None:
    for name, expected in runtime.items():
        if name not in found or found[name].shape != expected.shape:
            return f"ONNX's evaluator gives no {name} of ONNX Runtime's shape"
    return None


def _unlike(found: Mapping[str, np.ndarray], runtime: Mapping[str, np.ndarray]) -> str | None:
    """How the evaluator's float32 is not that of ONNX Runtime: one of them computes otherwise."""
    for name, expected in runtime.items():
        near = metrics.sqnr_db(found[name], expected)
        if not near >= SAME_DB:
            return f"ONNX's evaluator gives another {name} than ONNX Runtime ({near:.0f} dB)"
    return None


def _short(error: Exception) -> str:
    """The first line of what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:MOST_OF_A_REASON]
