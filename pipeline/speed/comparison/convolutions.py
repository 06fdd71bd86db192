"""What a separable convolution saves: at MobileNetV2's shapes, by arithmetic and by the clock.

A 3x3 convolution from C to K channels takes 9 C K multiply-accumulates for each pixel, a 3x3
depthwise and a 1x1 pointwise one together 9 C + C K: by a factor of 1 / (1/K + 1/9) fewer, which
comes close to 9 where K is large (Sandler et al., arXiv 1801.04381, section 3.1). The clock saves
less. A depthwise filter does 9 multiply-accumulates with a value that it loads, where a full one
does 9 K with it: what it waits for is the memory.
"""

from __future__ import annotations

import random
import statistics as stats
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....runners.base import RunnerError, SessionError
from ....runners.targets import LOCAL
from ....runners.timing.plan import Plan
from ...cells.plan import python_of
from ...cells.session import Cell, Opener, status_of
from ...numerics import metrics
from ...progress import Progress
from ...settings.machine import Places
from ...settings.speed import CompareConfig

RUNNERS = ("ort-cpu", "openvino")
KINDS = ("standard", "separable")
INPUT_SIZE = 224
ROUNDS = 3
TIMING = Plan(
    seconds=0.1, min_samples=16, max_seconds=5.0, window_seconds=0.02, warm_up_seconds=0.3
)
# float32 results of two sound implementations agree by more than this.
MIN_SQNR_DB = 80.0
OPSET = 17


@dataclass(frozen=True)
class Timed:
    """A runner's medians in ms, of the rounds' medians; ``reason`` if it gave none."""

    runner: str
    standard_ms: float | None
    separable_ms: float | None
    reason: str | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as long the standard one took."""
        if self.standard_ms is None or self.separable_ms is None:
            return None
        return self.standard_ms / self.separable_ms


@dataclass(frozen=True)
class Convolution:
    """One shape: ``inputs`` channels of ``size`` x ``size`` pixels to ``outputs`` channels.

    ``*_intensity`` is arithmetic intensity: multiply-accumulates for each byte of float32
    inputs, weights and outputs that the operators read or write.
    """

    inputs: int
    outputs: int
    size: int
    stride: int
    standard_macs: int
    separable_macs: int
    standard_intensity: float
    separable_intensity: float
    timed: tuple[Timed, ...] = ()

    @property
    def ratio(self) -> float:
        """How many times as many multiply-accumulates the standard one takes."""
        return self.standard_macs / self.separable_macs


def by_arithmetic() -> tuple[Convolution, ...]:
    """Every different depthwise layer of MobileNetV2 at 224 pixels with its projection."""
    found = []
    for inputs, outputs, size, stride in _layers():
        pixels, read = (size // stride) ** 2, inputs * size**2
        filters = 9 * inputs * outputs
        thin, mixing = 9 * inputs, inputs * outputs
        standard, separable = pixels * filters, pixels * (thin + mixing)
        moved = read + filters + pixels * outputs
        between = pixels * inputs  # written by the depthwise one, read by the pointwise one
        moved_apart = read + thin + 2 * between + mixing + pixels * outputs
        found.append(
            Convolution(
                *(inputs, outputs, size, stride, standard, separable),
                standard_intensity=standard / (4 * moved),
                separable_intensity=separable / (4 * moved_apart),
            )
        )
    return tuple(found)


def _layers() -> list[tuple[int, int, int, int]]:
    """Depthwise channels, projected channels, pixels, stride; each combination once."""
    from ....exporters.zoo.mobilenet_v2 import BLOCKS, STEM_CHANNELS

    layers: dict[tuple[int, int, int, int], None] = {}
    channels, size = STEM_CHANNELS, INPUT_SIZE // 2
    for expansion, outputs, repeats, first_stride in BLOCKS:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            layers[channels * expansion, outputs, size, stride] = None
            channels, size = outputs, size // stride
    return list(layers)


def by_the_clock(
    section: CompareConfig, places: Places, progress: Progress
) -> tuple[Convolution, ...]:
    """The same, measured on each runner in interleaved rounds, outputs checked on the way.

    A runner that can't be measured keeps its reason.
    """
    shapes = by_arithmetic()
    runners = section.runners or RUNNERS
    samples: dict[tuple[int, str, str], list[float]] = {}
    reasons: dict[str, str] = {}
    opener = Opener()
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        models = {
            (number, kind): _Model.make(Path(folder), number, shape, kind)
            for number, shape in enumerate(shapes)
            for kind in KINDS
        }
        visits = [(*key, runner) for key in models for runner in runners]
        for number in range(ROUNDS):
            for position, visit in enumerate(random.Random(number).sample(visits, len(visits))):
                shape, kind, runner = visit
                done, text = number * len(visits) + position, f"{kind} {shape} / {runner}"
                progress.step(done, ROUNDS * len(visits), f"round {number + 1}/{ROUNDS}: {text}")
                if runner in reasons:
                    continue
                try:
                    took = models[shape, kind].measure(runner, section.threads, places, opener)
                    samples.setdefault(visit, []).append(took)
                except RunnerError as error:
                    reasons[runner] = f"{status_of(error)}: {error}"
        progress.step(1, 1, "")
    return tuple(
        replace(shape, timed=tuple(_timed(number, runner, samples, reasons) for runner in runners))
        for number, shape in enumerate(shapes)
    )


def _timed(
    number: int,
    runner: str,
    samples: Mapping[tuple[int, str, str], Sequence[float]],
    reasons: Mapping[str, str],
) -> Timed:
    if runner in reasons:
        return Timed(runner, None, None, reasons[runner])
    standard, separable = (stats.median(samples[number, kind, runner]) for kind in KINDS)
    return Timed(runner, standard, separable)


@dataclass(frozen=True)
class _Model:
    """One of the two as an ONNX file, with an input and the output that torch has for it."""

    path: Path
    feeds: Mapping[str, np.ndarray]
    expected: np.ndarray

    @classmethod
    def make(cls, folder: Path, number: int, shape: Convolution, kind: str) -> _Model:
        """Weights and input are noise: the time doesn't depend on them."""
        import onnx

        noise = np.random.default_rng(number)

        def weight(*dimensions: int) -> np.ndarray:
            return noise.standard_normal(dimensions, np.float32) / np.float32(
                np.sqrt(np.prod(dimensions[1:]))
            )

        if kind == "standard":
            layers = [(weight(shape.outputs, shape.inputs, 3, 3), shape.stride, 1)]
        else:
            thin = weight(shape.inputs, 1, 3, 3)
            layers = [
                (thin, shape.stride, shape.inputs),
                (weight(shape.outputs, shape.inputs, 1, 1), 1, 1),
            ]
        inputs = noise.standard_normal((1, shape.inputs, shape.size, shape.size), np.float32)
        path = folder / f"{kind}-{number}.onnx"
        expected = _by_torch(inputs, layers)
        path.write_bytes(_onnx(layers, inputs.shape, expected.shape).SerializeToString())
        onnx.checker.check_model(str(path))
        return cls(path, {"input": inputs}, expected)

    def measure(self, runner: str, threads: int | None, places: Places, opener: Opener) -> float:
        """The median in ms, in a worker of its own. Raises ``RunnerError``, for wrong outputs
        as well.
        """
        cell = Cell(
            *("fp32", runner, LOCAL, "f32", self.path.name, threads),
            python=python_of(runner, places),
            device=places.device_of(runner),
        )
        with opener.open(cell, self.path) as opened:
            (output,) = opened.worker.run(self.feeds).arrays.values()
            sqnr_db = metrics.sqnr_db(output, self.expected)
            if sqnr_db < MIN_SQNR_DB:
                raise SessionError(f"{self.path.stem}: wrong outputs, SQNR {sqnr_db:.1f} dB")
            measurement, _ = opened.worker.measure(self.feeds, TIMING)
        return float(np.median(measurement.samples)) / 1e6


def _by_torch(inputs: np.ndarray, layers: Sequence[tuple[np.ndarray, int, int]]) -> np.ndarray:
    import torch
    from torch.nn import functional

    value = torch.from_numpy(inputs)
    for weight, stride, groups in layers:
        padding = weight.shape[-1] // 2
        value = functional.conv2d(value, torch.from_numpy(weight), None, stride, padding, 1, groups)
    return value.numpy()


def _onnx(
    layers: Sequence[tuple[np.ndarray, int, int]], inputs: Sequence[int], outputs: Sequence[int]
) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "input"
    for number, (weight, stride, groups) in enumerate(layers):
        result = "output" if number == len(layers) - 1 else f"between{number}"
        weights.append(numpy_helper.from_array(weight, f"weight{number}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [name, f"weight{number}"],
                [result],
                pads=[weight.shape[-1] // 2] * 4,
                strides=[stride, stride],
                group=groups,
            )
        )
        name = result
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, outputs)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
