"""What a file leaves open is settled: sizes by name, and inputs that always have one value.

Branches that such a value decides are taken: runtimes fail on what they could be instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, UsageError
from ..storage import goldens
from ..storage.arrays import MOST_VALUES
from .branches import take_decided
from .onnx_file import NO_TENSORS, OnnxFile, Tensor, tensor_of

# A first dimension may stay open: images per run.
DYNAMIC = "dynamic"
# Numbers of an input that are held at once, a run's or the goldens': 4 GiB of float32.
MOST_FED = 1 << 30
MOST_OF_A_VALUE = 60


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
    used = {name for value in graph.input for name in _settle(value, sizes, file)}
    if unknown := [name for name in sizes if name not in used]:
        raise UsageError(f"dim: {file.path} has no {unknown[0]!r}; {_open_sizes(file)}")
    for value in graph.output:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param in sizes:
                side.dim_value = sizes[side.dim_param]
    # What was inferred for open sizes is inferred again from these.
    del graph.value_info[:]
    inputs = {tensor.name: tensor for tensor in file.inputs}
    for name, text in values.items():
        if name not in inputs:
            known = ", ".join(inputs)
            raise UsageError(f"value: {file.path} has no input {name!r}; its inputs: {known}")
        given = next(one for one in graph.input if one.name == name)
        graph.initializer.append(_constant(text, given))
        graph.input.remove(given)
    if not len(graph.input):
        raise UsageError("value: an input has to be left that isn't given once and for all")
    if values:
        take_decided(graph)
    return model


def batch_of(file: OnnxFile, inputs: tuple[Tensor, ...]) -> int | str:
    """Images in a run: the first size of all inputs, "dynamic" if the file leaves it open.

    Raises ``InputError`` for inputs whose sizes aren't settled, or that have no batch in common.
    """
    where = file.path
    if not inputs:
        raise InputError(f"{where}: it has no inputs, so there is nothing to feed or to measure")
    for one in inputs:
        if one.dtype in NO_TENSORS:
            raise InputError(f"{where}: input {one.name} is a {one.dtype}: only tensors can be fed")
        if one.shape is None:
            raise InputError(
                f"{where}: input {one}, not even how many dimensions it has: export the file with "
                f"a shape for it, or settle it, --value {one.name}=…"
            )
        if not one.shape:
            values = " ".join(_single_numbers(file))
            raise InputError(f"{where}: input {one.name} is a single number: say which, {values}")
        if any(not isinstance(side, int) for side in one.shape[1:]):
            raise InputError(f"{where}: input {one} leaves sizes open: {_open_sizes(file)}")
        if 0 in one.shape:
            raise InputError(f"{where}: input {one} has no values at all")
    firsts = {one.name: one.shape[0] for one in inputs if one.shape}
    numbers = {side for side in firsts.values() if isinstance(side, int)}
    rows = max(numbers, default=1)
    for one in inputs:
        if math.prod((max(rows, goldens.COUNT), *_numbers(one)[1:])) > MOST_FED:
            raise InputError(
                f"{where}: input {one} is too large: {rows} in a run or {goldens.COUNT} goldens "
                f"are over {MOST_FED} values; --dim settles smaller sizes where they are open"
            )
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
    """Which sizes can be settled, as a user would say them, and what has to be settled as well."""
    found, firsts = dict[str, None](), dict[str, None]()
    for one in file.inputs:
        for axis, side in enumerate(one.shape or ()):
            if not isinstance(side, int):
                (found if axis else firsts)[f"--dim {side or f'{one.name}.{axis}'}=…"] = None
    if not found and not firsts:
        return "none of its sizes is open"
    # A batch that is another input's size, too, as a state has it, can't stay open.
    batches = [said for said in firsts if said not in found]
    needed = " ".join((*found, *_single_numbers(file)))
    settle = f"settle {needed}" if found else "all but the batch are settled"
    return f"{settle}; {' '.join(batches)} may stay open" if batches else settle


def _single_numbers(file: OnnxFile) -> list[str]:
    """What says the inputs that have no sizes at all: a sample rate, a threshold."""
    return [f"--value {one.name}=…" for one in file.inputs if one.shape == ()]


def _settle(value: Any, sizes: Mapping[str, int], file: OnnxFile) -> list[str]:
    """Set the sizes of an input that ``sizes`` tells; the names that did it.

    Raises ``UsageError`` for a size that the file has settled otherwise.
    """
    used = []
    for axis, side in enumerate(value.type.tensor_type.shape.dim):
        for name in (side.dim_param, f"{value.name}.{axis}"):
            if not name or name not in sizes:
                continue
            # Some exporters write 0 and -1 for what is open.
            if side.dim_value > 0 and side.dim_value != sizes[name]:
                raise UsageError(
                    f"dim: {name}={sizes[name]}, but it is {side.dim_value} in {file.path}: "
                    f"{_open_sizes(file)}"
                )
            side.dim_value = sizes[name]
            used.append(name)
    return used


def _numbers(one: Tensor) -> list[int]:
    """The sizes that are settled, 1 for the others."""
    return [side if isinstance(side, int) else 1 for side in one.shape or ()]


def _constant(text: str, value: Any) -> Any:
    """An input's value as a constant tensor.

    Floats are rounded to the input's precision, integers have to be its exactly. Raises
    ``UsageError`` for anything else, and where the input's own sizes aren't settled.
    """
    from onnx import numpy_helper

    one = tensor_of(value)
    short = f"{one.name}={text[:MOST_OF_A_VALUE]}{'…' * (len(text) > MOST_OF_A_VALUE)}"
    if one.dtype in NO_TENSORS or one.dtype == "string":
        raise UsageError(f"value: {one.name} is a {one.dtype}: only tensors of numbers are settled")
    if any(not isinstance(side, int) for side in one.shape or ()):
        raise UsageError(f"value: {one} leaves sizes open: settle them first, --dim")
    if math.prod(_numbers(one)) > MOST_VALUES:
        raise UsageError(f"value: {one} has over {MOST_VALUES} values, too many for a constant")
    try:
        given = np.asarray(json.loads(text))
        shape = given.shape if one.shape is None else tuple(_numbers(one))
        full = np.broadcast_to(_cast(given, value), shape)
        return numpy_helper.from_array(np.ascontiguousarray(full), one.name)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"value: {short}: JSON for {one} expected") from error


def _cast(given: np.ndarray, value: Any) -> np.ndarray:
    """Numbers in an input's type. Raises ``ValueError`` for what it can't hold."""
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if given.dtype.kind not in "biuf" or not np.all(np.isfinite(given)):
        raise ValueError("no numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        found = given.astype(dtype)
    fits = np.array_equal(found, given) if dtype.kind in "biu" else np.all(np.isfinite(found))
    if not fits:
        raise ValueError(f"not {dtype.name}")
    return found
