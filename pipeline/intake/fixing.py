"""What a file leaves open is settled: sizes by name, and inputs that always have one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, UsageError
from .onnx_file import OnnxFile, Tensor

# A first dimension may stay open: images per run.
DYNAMIC = "dynamic"


def fixed(file: OnnxFile, sizes: Mapping[str, int], values: Mapping[str, str]) -> Any:
    """A copy of the model with these sizes and values, or the model itself if there are none.

    ``sizes`` are by a dimension's name, or by INPUT.AXIS where it has none; ``values`` are JSON by
    an input's name: a number fills the input's shape. Raises ``UsageError`` for what the file
    doesn't have, and for values that don't fit.
    """
    import onnx

    if not sizes and not values:
        return file.model
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    graph = model.graph
    used = set()
    for value in (*graph.input, *graph.output):
        for axis, side in enumerate(value.type.tensor_type.shape.dim):
            for name in (side.dim_param, f"{value.name}.{axis}"):
                if name and name in sizes:
                    side.dim_value = sizes[name]
                    used.add(name)
    if unknown := [name for name in sizes if name not in used]:
        raise UsageError(f"dim: {file.path} has no {unknown[0]!r}; {_open_sizes(file)}")
    # What was inferred for open sizes is inferred again from these.
    del graph.value_info[:]
    inputs = {tensor.name: tensor for tensor in file.inputs}
    for name, text in values.items():
        if name not in inputs:
            known = ", ".join(inputs)
            raise UsageError(f"value: {file.path} has no input {name!r}; its inputs: {known}")
        given = next(one for one in graph.input if one.name == name)
        graph.initializer.append(_constant(name, text, given.type.tensor_type))
        graph.input.remove(given)
    if not len(graph.input):
        raise UsageError("value: an input has to be left that isn't given once and for all")
    return model


def batch_of(file: OnnxFile, inputs: tuple[Tensor, ...]) -> int | str:
    """Images in a run: the first size of all inputs, "dynamic" if the file leaves it open.

    Raises ``InputError`` for inputs whose sizes aren't settled, or that have no batch in common.
    """
    where = file.path
    for one in inputs:
        if one.shape is None:
            raise InputError(f"{where}: input {one.name} is a {one.dtype}: only tensors can be fed")
        if not one.shape:
            raise InputError(
                f"{where}: input {one.name} is a single number: say which, --value {one.name}=…"
            )
        if any(not isinstance(side, int) for side in one.shape[1:]):
            raise InputError(f"{where}: input {one} leaves sizes open: {_open_sizes(file)}")
        if any(side == 0 for side in one.shape[1:]):
            raise InputError(f"{where}: input {one} has no values at all")
    firsts = {one.name: one.shape[0] for one in inputs if one.shape}
    numbers = {side for side in firsts.values() if isinstance(side, int)}
    if not numbers:
        return DYNAMIC
    if len(numbers) > 1 or len({type(side) for side in firsts.values()}) > 1:
        listed = ", ".join(map(str, inputs))
        raise InputError(
            f"{where}: its inputs have no batch in common ({listed}): --dim settles sizes, "
            "--value NAME=0 an input that is a state"
        )
    return numbers.pop()


def _open_sizes(file: OnnxFile) -> str:
    """Which sizes can be settled, as a user would say them."""
    found, batches = dict[str, None](), dict[str, None]()
    for one in file.inputs:
        for axis, side in enumerate(one.shape or ()):
            if not isinstance(side, int):
                (found if axis else batches)[f"--dim {side or f'{one.name}.{axis}'}=…"] = None
    if not found and not batches:
        return "none of its sizes is open"
    settle = f"settle {' '.join(found)}" if found else "all but the batch are settled"
    return f"{settle}; {' '.join(batches)} may stay open" if batches else settle


def _constant(name: str, text: str, kind: Any) -> Any:
    """An input's value as a constant tensor."""
    from onnx import helper, numpy_helper

    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = tuple(side.dim_value for side in kind.shape.dim)
    try:
        given = np.asarray(json.loads(text))
        exact = given.astype(dtype)
        if given.dtype.kind not in "bif" or not np.array_equal(exact, given):
            raise ValueError(f"not {dtype.name}")
        full = np.ascontiguousarray(np.broadcast_to(exact, shape))
    except ValueError as error:
        raise UsageError(f"value: {name}={text}: {dtype.name} {list(shape)} expected") from error
    return numpy_helper.from_array(full, name)
