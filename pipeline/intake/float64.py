"""A graph in float64: how exact its float32 is, where no module can be asked.

    python -P -m edgepipe.pipeline.intake.float64

ONNX Runtime has few kernels for doubles, and none for convolutions. So ONNX's own reference
evaluator computes the graph, with its constants and casts raised, and with the operators below,
which it would take minutes for. It runs in a worker: graphs may come from anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...runners.targets import LOCAL
from ...runners.workers import protocol, worker
from ..stages.native import answering
from .onnx_file import constants, graphs, nodes

COMMAND = tuple(LOCAL.argv(module=__spec__.name))
# Attributes that name the type of what an operator gives.
TYPED = ("to", "dtype", "stash_type")


class Evaluation:
    """A graph in float32 as it is, or raised, fed one batch after the other."""

    def __init__(self) -> None:
        self._evaluator: Any = None
        self._dtype = np.float64

    def load(self, fields: protocol.Message, _feeds: protocol.Blobs) -> None:
        """{model, raised}: what ``evaluate`` computes from now on."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(fields["model"])
        if fields["raised"]:
            raise_types(model)
        self._dtype = np.float64 if fields["raised"] else np.float32
        self._evaluator = ReferenceEvaluator(model, new_ops=operators())

    def evaluate(
        self, _fields: protocol.Message, feeds: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Feeds, their floats as float32: the outputs by name."""
        given = {
            name: array.astype(self._dtype) if array.dtype == np.float32 else array
            for name, array in feeds.items()
        }
        found = self._evaluator.run(None, given)
        return dict(zip(self._evaluator.output_names, map(np.asarray, found), strict=True))


def raise_types(model: Any) -> None:
    """Make float32 of a graph float64: constants, casts, and what is declared."""
    from onnx import TensorProto, numpy_helper

    single, double = TensorProto.FLOAT, TensorProto.DOUBLE
    for tensor in constants(model.graph):
        if tensor.data_type == single:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in nodes(model.graph):
        for one in node.attribute:
            if one.name in TYPED and one.i == single:
                one.i = double
    for graph in graphs(model.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == single:
                value.type.tensor_type.elem_type = double


def operators() -> list[type]:
    """Operators that the evaluator has, too, but computes place by place in Python, or wrong.

    Its BatchNormalization of operator sets before 14 takes the momentum for inference.
    """
    from onnx.reference.op_run import OpRun

    class Conv(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None,
                 kernel_shape: Any = None, pads=None, strides=None):  # fmt: skip
            return (convolution(x, w, b, auto_pad, dilations, group, pads, strides),)

    class AveragePool(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None,
                 kernel_shape: Any = None, pads=None, strides=None):  # fmt: skip
            taps = windows(x, kernel_shape, auto_pad, dilations, pads, strides, ceil_mode, 0)
            ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
            edge = 1 if count_include_pad else 0
            inside = windows(
                ones, kernel_shape, auto_pad, dilations, pads, strides, ceil_mode, edge, 0
            )
            axes = tuple(range(-len(kernel_shape), 0))
            return ((taps.sum(axes) / inside.sum(axes)).astype(x.dtype),)

    class MaxPool(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape: Any = None,
                 pads=None, storage_order=None, strides=None):  # fmt: skip
            taps = windows(x, kernel_shape, auto_pad, dilations, pads, strides, ceil_mode, -np.inf)
            return (taps.max(tuple(range(-len(kernel_shape), 0))),)

    class BatchNormalization(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, scale, bias, mean, variance, epsilon=None, momentum=None,
                 spatial=None, training_mode=None):  # fmt: skip
            if training_mode:
                raise NotImplementedError("BatchNormalization in training")
            sides = (1, -1, *(1 for _ in x.shape[2:]))
            size = scale / np.sqrt(variance + x.dtype.type(epsilon))
            return ((x - mean.reshape(sides)) * size.reshape(sides) + bias.reshape(sides),)

    return [Conv, AveragePool, MaxPool, BatchNormalization]


def convolution(
    x: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray | None,
    auto_pad: str | None,
    dilations: Sequence[int] | None,
    group: int | None,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
) -> np.ndarray:
    """ONNX's Conv, ``[N, C, *sides]`` by ``[M, C/group, *taps]``: a matrix product a group."""
    groups, taps = group or 1, weights.shape[2:]
    found = windows(x, taps, auto_pad, dilations, pads, strides, 0, 0)
    count, sides = len(x), found.shape[2 : 2 + len(taps)]
    outputs = np.empty((count, len(weights), *sides), x.dtype)
    each_in, each_out = x.shape[1] // groups, len(weights) // groups
    if each_in == 1:  # depthwise: one product would be a loop over the channels
        flat = weights.reshape(groups, each_out, -1)
        total = np.zeros((count, groups, each_out, *sides), x.dtype)
        for place, tap in enumerate(itertools.product(*map(range, taps))):
            seen = found[(..., *tap)][:, :, None]
            total += seen * flat[:, :, place].reshape(groups, each_out, *(1 for _ in sides))
        outputs[:] = total.reshape(outputs.shape)
    else:
        order = (0, *range(2, 2 + len(sides)), 1, *range(2 + len(sides), found.ndim))
        for one in range(groups):
            part = found[:, one * each_in : (one + 1) * each_in].transpose(order)
            rows = part.reshape(count * int(np.prod(sides)), -1)
            kernel = weights[one * each_out : (one + 1) * each_out].reshape(each_out, -1)
            product = (rows @ kernel.T).reshape(count, *sides, each_out)
            outputs[:, one * each_out : (one + 1) * each_out] = np.moveaxis(product, -1, 1)
    if bias is not None:
        outputs += bias.reshape(1, -1, *(1 for _ in sides))
    return outputs


def windows(
    x: np.ndarray,
    taps: Sequence[int],
    auto_pad: str | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    ceil_mode: int | None,
    fill: float,
    beyond: float | None = None,
) -> np.ndarray:
    """A view ``[N, C, *places, *taps]`` of what a kernel sees at each place.

    The padding is ``fill``; ``beyond``, else ``fill``, is what ``ceil_mode`` lets it see behind it.
    """
    dimensions = len(taps)
    dilations = dilations or [1] * dimensions
    strides = strides or [1] * dimensions
    padded, front = _padded(x, taps, auto_pad, dilations, pads, strides, fill)
    spans = [(tap - 1) * step + 1 for tap, step in zip(taps, dilations, strict=True)]
    if ceil_mode:
        # The last window may hang over the end, if it begins before it: not in the padding behind.
        more = [
            (-(size - span) % stride if size >= span else 0)
            for size, span, stride in zip(padded.shape[2:], spans, strides, strict=True)
        ]
        ends = [size + before for size, before in zip(x.shape[2:], front, strict=True)]
        more = [
            0 if size + extra - span >= end else extra
            for size, extra, span, end in zip(padded.shape[2:], more, spans, ends, strict=True)
        ]
        hang = [(0, 0), (0, 0), *((0, extra) for extra in more)]
        padded = np.pad(padded, hang, constant_values=fill if beyond is None else beyond)
    axes = tuple(range(2, 2 + dimensions))
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    steps = tuple(slice(None, None, stride) for stride in strides)
    within = tuple(slice(None, None, step) for step in dilations)
    return seen[(slice(None), slice(None), *steps, *within)]


def _padded(
    x: np.ndarray,
    taps: Sequence[int],
    auto_pad: str | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    fill: float,
) -> tuple[np.ndarray, list[int]]:
    """The input with what is around it, and how much of that is in front of each side."""
    dimensions = len(taps)
    around = list(pads or [0] * 2 * dimensions)
    if auto_pad and auto_pad.startswith("SAME"):
        for axis in range(dimensions):
            size, stride = x.shape[2 + axis], (strides or [1] * dimensions)[axis]
            span = (taps[axis] - 1) * (dilations or [1] * dimensions)[axis] + 1
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
            small, large = total // 2, total - total // 2
            both = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
            around[axis], around[axis + dimensions] = both
    edges = list(zip(around[:dimensions], around[dimensions:], strict=True))
    return np.pad(x, [(0, 0), (0, 0), *edges], constant_values=fill), around[:dimensions]


def main() -> None:
    """The child: answer until the parent is gone."""
    made = Evaluation()
    answers = {one.__name__: answering(one) for one in (made.load, made.evaluate)}
    worker.main({"hello": worker.hello, **answers})


if __name__ == "__main__":
    main()
