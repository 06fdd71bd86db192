"""A graph in float64: how exact its float32 is, where no module can be asked.

    python -P -m edgepipe.pipeline.intake.float64

ONNX Runtime has few kernels for doubles, and none for convolutions. So ONNX's own reference
evaluator computes the graph, with its constants and casts raised, and with the operators below,
which it would take minutes for. It runs in a worker: graphs may come from anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.targets import LOCAL
from ...runners.workers import protocol, worker
from ..stages.native import answering
from ..storage import onnx_models
from ..storage.onnx_models import constants
from .onnx_file import graphs, nodes

COMMAND = tuple(LOCAL.argv(module=__spec__.name))
# Whose second input is multiplied by the first one.
PRODUCTS, WEIGHT = frozenset({"Conv", "Gemm", "MatMul"}), 1
# Attributes that name the type of what an operator gives.
TYPED = ("to", "dtype", "stash_type")


class Evaluation:
    """A graph in float32 as it is, or raised, fed one batch after the other."""

    def __init__(self) -> None:
        self._evaluator: Any = None
        self._mapped: dict[str, np.ndarray] = {}
        self._dtype = np.float64

    def load(self, fields: protocol.Message, _feeds: protocol.Blobs) -> None:
        """{model, raised}: what ``evaluate`` computes from now on."""
        from onnx.reference import ReferenceEvaluator

        model = onnx_models.load(Path(fields["model"]))
        self._mapped = dict(_mapped(model))
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
        found = self._evaluator.run(None, given | self._mapped)
        return dict(zip(self._evaluator.output_names, map(np.asarray, found), strict=True))


def _mapped(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Take the large weights out of a graph whose tensors lie in a file; gives them, mapped.

    They stay float32 there: a product with float64 is computed in float64, of one layer after the
    other. Other large tensors are read.
    """
    graph = model.graph
    uses: dict[str, list[tuple[Any, int]]] = {}
    for node in nodes(graph):
        for place, name in enumerate(node.input):
            uses.setdefault(name, []).append((node, place))
    for tensor in list(graph.initializer):
        if not onnx_models.is_external(tensor):
            continue
        readers = uses.get(tensor.name, [])
        if all(node.op_type in PRODUCTS and place == WEIGHT for node, place in readers):
            yield tensor.name, onnx_models.values(tensor)
            graph.initializer.remove(tensor)
    for tensor in constants(graph):
        if onnx_models.is_external(tensor):
            onnx_models.embed(tensor)


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
                 kernel_shape=None, pads=None, strides=None):  # fmt: skip
            kernel = Kernel.of(w.shape[2:], auto_pad, dilations, pads, strides)
            return (convolution(x, w, b, kernel, group or 1),)

    class AveragePool(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None,
                 kernel_shape: Any = None, pads=None, strides=None):  # fmt: skip
            kernel = Kernel.of(kernel_shape, auto_pad, dilations, pads, strides, pools=True)
            ceil = bool(ceil_mode)
            ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
            inside = kernel.windows(ones, 1 if count_include_pad else 0, ceil=ceil, beyond=0)
            total = kernel.windows(x, 0, ceil=ceil).sum(kernel.last_axes)
            return ((total / inside.sum(kernel.last_axes)).astype(x.dtype),)

    class MaxPool(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape: Any = None,
                 pads=None, storage_order=None, strides=None):  # fmt: skip
            kernel = Kernel.of(kernel_shape, auto_pad, dilations, pads, strides, pools=True)
            return (kernel.windows(x, -np.inf, ceil=bool(ceil_mode)).max(kernel.last_axes),)

    class BatchNormalization(OpRun):  # pyright: ignore[reportUntypedBaseClass]
        def _run(self, x, scale, bias, mean, variance, epsilon=None, momentum=None,
                 spatial=None, training_mode=None):  # fmt: skip
            if training_mode:
                raise NotImplementedError("BatchNormalization in training")
            sides = (1, -1, *(1 for _ in x.shape[2:]))
            size = scale / np.sqrt(variance + x.dtype.type(epsilon))
            return ((x - mean.reshape(sides)) * size.reshape(sides) + bias.reshape(sides),)

    return [Conv, AveragePool, MaxPool, BatchNormalization]


@dataclass(frozen=True)
class Kernel:
    """What slides over an input, a number for each of its sides: see ONNX's Conv.

    ``pads`` are those in front of all sides, then those behind them; ``auto_pad`` counts first.
    One that ``pools`` is padded as in ONNX Runtime, whose SAME is that of a kernel without
    dilations (``PoolAttributes::ComputeSizePadDilations``), where ONNX's has the same size behind.
    """

    taps: Sequence[int]
    dilations: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int]
    auto_pad: str | None
    pools: bool = False

    @classmethod
    def of(
        cls,
        taps: Sequence[int],
        auto_pad: str | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        strides: Sequence[int] | None,
        *,
        pools: bool = False,
    ) -> Kernel:
        """From an operator's attributes, which may be left out."""
        ones = [1] * len(taps)
        pads = pads or [0] * 2 * len(taps)
        return cls(taps, dilations or ones, strides or ones, pads, auto_pad, pools)

    @property
    def last_axes(self) -> tuple[int, ...]:
        """Where the taps are in ``windows``."""
        return tuple(range(-len(self.taps), 0))

    @property
    def spans(self) -> list[int]:
        """How far it reaches."""
        pairs = zip(self.taps, self.dilations, strict=True)
        return [(tap - 1) * step + 1 for tap, step in pairs]

    def windows(
        self, x: np.ndarray, fill: float, *, ceil: bool = False, beyond: float | None = None
    ) -> np.ndarray:
        """A view ``[N, C, *places, *taps]`` of what it sees at each place.

        The padding is ``fill``; ``beyond``, else ``fill``, is what ``ceil`` lets it see behind it.
        """
        edges = self._edges(x.shape[2:])
        padded = np.pad(x, [(0, 0), (0, 0), *edges], constant_values=fill)
        if ceil:
            hang = [(0, 0), (0, 0), *((0, extra) for extra in self._hang(x, padded, edges))]
            padded = np.pad(padded, hang, constant_values=fill if beyond is None else beyond)
        axes = tuple(range(2, 2 + len(self.taps)))
        seen = np.lib.stride_tricks.sliding_window_view(padded, self.spans, axis=axes)
        steps = tuple(slice(None, None, stride) for stride in self.strides)
        within = tuple(slice(None, None, step) for step in self.dilations)
        return seen[(slice(None), slice(None), *steps, *within)]

    def _hang(
        self, x: np.ndarray, padded: np.ndarray, edges: Sequence[tuple[int, int]]
    ) -> Iterator[int]:
        """How far the last window hangs over each end, if it begins before it: not in padding."""
        for axis, (span, stride) in enumerate(zip(self.spans, self.strides, strict=True)):
            size, end = padded.shape[2 + axis], x.shape[2 + axis] + edges[axis][0]
            extra = -(size - span) % stride if size >= span else 0
            yield 0 if size + extra - span >= end else extra

    def _edges(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """The padding in front of and behind each side."""
        if not (self.auto_pad and self.auto_pad.startswith("SAME")):
            half = len(self.taps)
            return list(zip(self.pads[:half], self.pads[half:], strict=True))
        found = []
        reaches = self.taps if self.pools else self.spans
        for size, stride, reach in zip(sides, self.strides, reaches, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            small, large = total // 2, total - total // 2
            found.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
        return found


def convolution(
    x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None, kernel: Kernel, groups: int
) -> np.ndarray:
    """ONNX's Conv, ``[N, C, *sides]`` by ``[M, C/group, *taps]``: a matrix product a group."""
    taps = kernel.taps
    found = kernel.windows(x, 0)
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
            columns = weights[one * each_out : (one + 1) * each_out].reshape(each_out, -1).T
            product = (rows @ columns).reshape(count, *sides, each_out)
            outputs[:, one * each_out : (one + 1) * each_out] = np.moveaxis(product, -1, 1)
    if bias is not None:
        outputs += bias.reshape(1, -1, *(1 for _ in sides))
    return outputs


def main() -> None:
    """The child: answer until the parent is gone."""
    made = Evaluation()
    answers = {one.__name__: answering(one) for one in (made.load, made.evaluate)}
    worker.main({"hello": worker.hello, **answers})


if __name__ == "__main__":
    main()
