"""What a file's inputs are: images, or arrays with the values that they can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runners.images import Size
from ..errors import InputError, UsageError
from ..settings.making import InputsConfig
from ..storage.arrays import DTYPES, ArrayInput
from .onnx_file import OnnxFile, Tensor

COLOURS = 3


@dataclass(frozen=True)
class TakenImages:
    """The images that a model takes: ``folded`` ones as uint8 NHWC."""

    size: Size
    channels: int
    folded: bool


def of_images(inputs: Sequence[Tensor], channels: int | None) -> TakenImages | None:
    """The images that a model takes; ``None`` for one that takes something else.

    Without ``channels`` an input is one of images if it has three of them.
    """
    if len(inputs) != 1 or inputs[0].shape is None or len(inputs[0].shape) != 4:
        return None
    first, second, third = (int(side or 0) for side in inputs[0].shape[1:])
    forms = {"float32": (first, (second, third)), "uint8": (third, (first, second))}
    if inputs[0].dtype not in forms:
        return None
    found, size = forms[inputs[0].dtype]
    if found != (channels or COLOURS):
        return None
    side: Size = size[0] if size[0] == size[1] else size
    return TakenImages(side, found, inputs[0].dtype == "uint8")


def of_arrays(
    file: OnnxFile, config: InputsConfig
) -> tuple[tuple[ArrayInput, ...], tuple[str, ...]]:
    """Each input with its values, and what had to be assumed of them.

    What ``config`` says of an input counts; the indices of a table are as many as it has rows.
    """
    inputs = file.inputs
    said = {one.name: one for one in map(ArrayInput.parse, config.inputs)}
    if unknown := [name for name in said if name not in {one.name for one in inputs}]:
        known = ", ".join(map(str, inputs))
        raise UsageError(f"input: the file has no {unknown[0]!r}; its inputs: {known}")
    found, notes = [], []
    for one in inputs:
        assert one.shape
        shape = tuple(int(side or 0) for side in one.shape[1:])
        if one.dtype not in DTYPES:
            raise InputError(
                f"{file.path}: input {one}: {one.dtype} can't be fed, only {', '.join(DTYPES)}"
            )
        if one.name in said:
            told = said[one.name]
            if (told.shape, told.dtype) != (shape, one.dtype):
                raise UsageError(f"input: {told}, but the file has {one}")
            found.append(told)
            continue
        low = high = None
        if np.dtype(one.dtype).kind in "iu":
            rows = _rows_of_table(one.name, file.model)
            low, high = 0.0, float(rows - 1 if rows else 1)
            if not rows and not config.data:
                notes.append(f"{one.name}: values of 0 and 1; --input says others")
        found.append(ArrayInput(one.name, shape, one.dtype, low, high))
    if not config.data:
        names = ", ".join(one.name for one in inputs)
        notes.append(f"random values for {names}, not real ones; --data FILE.npz takes yours")
    return tuple(found), tuple(notes)


def _rows_of_table(name: str, model: Any) -> int | None:
    """The rows of the constant that an input picks from, as an embedding's tokens do."""
    tables = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    same = {name}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in same:
            same.update(node.output)
        picks = node.op_type == "Gather" and node.input[1] in same
        if picks and node.input[0] in tables:
            found.append(int(tables[node.input[0]]))
    return min(found, default=None)
