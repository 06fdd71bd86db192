"""Equalization: channels that share a scale are brought to like ranges, where that is exact.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling: "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721, section 4.1: a channel may be
divided by any positive number where it is made and multiplied by it where it is read. That holds
through ReLU, sums and pools and not through ReLU6, so that channels which meet anything else are
left as they are: the float function stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..draft import BIAS, WEIGHT, Data, Draft, Weighted, on_axis
from ..histograms import Calibrated, Collector
from ..sessions import all_tensors, session, with_outputs

# f(s x) = s f(x) for any s > 0, channel by channel.
HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity"}
)
# No channel is scaled further than this: what is hardly ever active would get all the steps.
MOST = 16.0


class Equalization:
    """Scales the channels between quantized layers."""

    name = "equalization"

    def apply(self, draft: Draft, data: Data) -> Draft:
        """See ``Quantizer.apply``."""
        groups = list(_groups(draft))
        sizes = _sizes(draft.model, [name for group in groups for name in group.tensors], data)
        constants: dict[str, np.ndarray] = {}
        biases = draft.biases()
        for group in groups:
            scale = _scale(group, sizes, constants)
            for one in group.makers:
                _divide(constants, one.node.input[WEIGHT], one.weights, one.along(scale))
                _divide(constants, one.node.input[BIAS], biases[one.node.name], scale)
            for one in group.readers:
                axis = 0 if one.depthwise else _input_axis(one)
                along = on_axis(scale, one.weights.ndim, axis)
                _divide(constants, one.node.input[WEIGHT], one.weights, 1 / along)
        equalized = draft.with_constants(constants)
        return replace(equalized, calibrated=_again(equalized.model, data))


@dataclass
class _Group:
    """Tensors whose channels have one scale, who makes them and who reads them."""

    tensors: set[str] = field(default_factory=set)
    makers: list[Weighted] = field(default_factory=list)
    readers: list[Weighted] = field(default_factory=list)
    others: bool = False


def _groups(draft: Draft) -> Iterable[_Group]:
    graph = draft.model.graph
    weighted = {one.node.name: one for one in draft.weighted()}
    constants = {tensor.name for tensor in graph.initializer}
    groups: dict[str, _Group] = {}

    def of(name: str) -> _Group:
        return groups.setdefault(name, _Group({name}))

    def join(names: Sequence[str]) -> _Group:
        whole = of(names[0])
        for name in names[1:]:
            other = of(name)
            if other is whole:
                continue
            whole.tensors |= other.tensors
            whole.makers += other.makers
            whole.readers += other.readers
            whole.others |= other.others
            for one in other.tensors:
                groups[one] = whole
        return whole

    for value in (*graph.input, *graph.output):
        of(value.name).others = True
    biased = draft.biases()
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in graph.node:
        read = [name for name in node.input if name and name not in constants]
        one = weighted.get(node.name)
        own = one and node.name in biased and uses[node.input[WEIGHT]] == 1
        if one and own and len(read) == 1 and _plain(one):
            of(read[0]).readers.append(one)
            of(node.output[0]).makers.append(one)
        elif node.op_type in HOMOGENEOUS and len(read) == len(node.input):
            join([*read, node.output[0]])
        else:
            for name in (*read, *node.output):
                of(name).others = True
    for group in {id(group): group for group in groups.values()}.values():
        if not group.others and group.makers and group.readers:
            yield group


def _plain(one: Weighted) -> bool:
    """Whether its input channels are its weights' second dimension, or one by one its output's."""
    if one.node.op_type == "Gemm":
        return not any(item.name == "transA" and item.i for item in one.node.attribute)
    return one.groups == 1 or (one.depthwise and one.weights.shape[0] == one.groups)


def _input_axis(one: Weighted) -> int:
    return 1 - one.axis if one.node.op_type == "Gemm" else 1


def _divide(
    constants: dict[str, np.ndarray], name: str, values: np.ndarray, by: np.ndarray
) -> None:
    constants[name] = constants.get(name, values).astype(np.float64) / by


def _sizes(model: Any, names: Sequence[str], data: Data) -> Mapping[str, np.ndarray]:
    """The largest absolute value of each channel of some tensors over the samples."""
    found: dict[str, np.ndarray] = {}
    if not names:
        return found
    made = session(with_outputs(model, names))
    for feeds in data.samples:
        for name, array in zip(names, made.run(list(names), dict(feeds)), strict=True):
            axes = tuple(axis for axis in range(array.ndim) if axis != 1)
            size = np.abs(array).max(axes)
            found[name] = np.maximum(found[name], size) if name in found else size
    return found


def _scale(
    group: _Group, sizes: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What the channels are divided by: halfway, in logarithms, between equal values and weights.

    Weights have a scale for each output channel, so that those of the makers don't matter, and
    those of a reader only if it mixes channels.
    """
    values = np.max([sizes[name] for name in group.tensors], axis=0).astype(np.float64)
    read = np.zeros_like(values)
    for one in group.readers:
        if not one.depthwise:
            weights = np.abs(constants.get(one.node.input[WEIGHT], one.weights))
            axes = tuple(axis for axis in range(weights.ndim) if axis != _input_axis(one))
            # In parts of what sets the scale of its output channel.
            largest = weights.max(
                tuple(axis for axis in range(weights.ndim) if axis != one.axis), keepdims=True
            )
            share = weights / np.where(largest > 0, largest, 1.0)
            read = np.maximum(read, share.max(axes))
    known = values > 0
    scale = np.ones_like(values)
    mixing = any(not one.depthwise for one in group.readers)
    target = np.sqrt(values / np.where(read > 0, read, 1.0)) if mixing else values
    scale[known] = target[known] / np.exp(np.log(target[known]).mean())
    return np.clip(scale, 1 / MOST, MOST)


def _again(model: Any, data: Data) -> Calibrated:
    """Histograms of the equalized model, over the samples."""
    compute = all_tensors(model)
    collector = Collector(len(data.samples))
    for feeds in data.samples:
        collector.take(compute(feeds), 1)
    kept = data.calibrated.histograms
    new = collector.done()
    inputs = {value.name for value in model.graph.input}
    given = {name: kept[name] for name in inputs & set(kept)}
    return Calibrated({**given, **new.histograms}, new.earlier, new.images)
