"""What a worker does for the quantizing stages: it keeps the images while steps look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...runners.machine import host
from ..numerics import metrics
from ..storage import onnx_models
from ..storage.goldens import EXPECTED
from . import costs, ranges, recipes
from .draft import Data, Draft, with_own_biases
from .histograms import Calibrated, Collector
from .qdq import QdqGraph, worst_of_layers, write
from .sessions import all_tensors, session

# What ``--fold-preprocessing`` puts before the first convolution.
PREPROCESSING_OPERATORS = ("Cast", "Transpose", "Slice", "Mul", "Add")

Fields = Mapping[str, Any]
Arrays = Mapping[str, Any]


class Quantization:
    """The requests of one export, one after the other."""

    def __init__(self) -> None:
        self._collecting: Any = None
        self._scores = ""
        self._collector = Collector(0)
        self._samples: list[Arrays] = []
        self._held_out: list[tuple[Arrays, Arrays]] = []

    @cached_property
    def _exact(self) -> bool:
        """Whether kernels here tell what int8 is: those that saturate have it look worse."""
        return not host.saturates(host.facts())

    def calibrate(self, fields: Fields, feeds: Arrays) -> None:
        """{model, images, count} + feeds: take in one batch, of which ``count`` are images."""
        if self._collecting is None:
            model = onnx_models.load(Path(fields["model"]))
            self._collecting, self._scores = all_tensors(model), model.graph.output[0].name
            self._collector = Collector(fields["images"])
        floats = {name: array for name, array in feeds.items() if array.dtype == np.float32}
        found = self._collecting(feeds)
        self._collector.take(floats | found, fields["count"])
        self._collector.score(found.get(self._scores), fields["count"])

    def histograms(self, fields: Fields, _feeds: Arrays) -> dict[str, Any]:
        """{output, method}: what was collected, see ``Calibrated``.

        Replies with ``ranges``: how many there are, and ``unsettled``: how many of them the last
        images moved, by how much the most, and how many images would do. See ``ranges.unsettled``.
        """
        found = self._collector.done()
        Path(fields["output"]).write_bytes(found.to_bytes())
        self._collecting, self._collector = None, Collector(0)
        moved, enough = ranges.unsettled(found, fields["method"])
        most = max(moved.values(), default=0.0)
        return {"ranges": len(found.histograms), "unsettled": [len(moved), most, enough]}

    def forget(self, _fields: Fields, _feeds: Arrays) -> None:
        """What was handed over for another variant."""
        self._samples, self._held_out = [], []

    def sample(self, _fields: Fields, feeds: Arrays) -> None:
        """Feeds that the steps may run."""
        self._samples.append(feeds)

    def held_out(self, _fields: Fields, feeds: Arrays) -> None:
        """Feeds that nobody calibrated with: what a step gains is told on these.

        "expected/OUTPUT" are the float model's answers to them; without any they are computed.
        """
        expected = {
            name.removeprefix(EXPECTED): array
            for name, array in feeds.items()
            if name.startswith(EXPECTED)
        }
        given = {name: array for name, array in feeds.items() if not name.startswith(EXPECTED)}
        self._held_out.append((given, expected))

    def quantize(self, fields: Fields, _feeds: Arrays) -> dict[str, Any]:
        """{model, calibration, output, recipe, floats, exact_pairs, each}: the int8 model.

        ``floats`` are nodes that stay in float besides the first convolutions. Replies with
        ``gained``: [step, dB on what was held out] after each step if ``each``, the first one that
        of plain ranges, else after the last; ``agreement``: how often the first class is the same;
        ``pairs``: see ``qdq.worst_of_layers``; ``layers``: the quantized nodes with weights.
        """
        calibrated, model = self._loaded(Path(fields["model"]), Path(fields["calibration"]))
        draft = Draft(
            model,
            floats=frozenset((*first_nodes(model.graph), *fields["floats"])),
            exact_pairs=fields["exact_pairs"],
        )
        data = Data(calibrated, self._samples)
        steps = fields["recipe"]
        gained: list[list[Any]] = []
        if fields["each"] and steps[0] != recipes.BASELINE:
            plain = replace(draft, ranges=ranges.choose(calibrated, recipes.BASELINE))
            gained.append([recipes.BASELINE, self._judged(write(plain))[0]])
        for step, after in recipes.drafts(draft, data, steps):
            draft = after
            if fields["each"] and draft.ranges and step != steps[-1]:
                gained.append([step, self._judged(write(draft))[0]])
        written = write(draft)
        sqnr_db, agreement = self._judged(written)
        gained.append([steps[-1], sqnr_db])
        onnx_models.save(written, Path(fields["output"]))
        return {
            "gained": gained,
            "agreement": agreement,
            "pairs": worst_of_layers(written),
            "layers": list(QdqGraph(written).layers),
        }

    def costs(self, fields: Fields, _feeds: Arrays) -> dict[str, Any]:
        """{model, int8}: what int8 costs on what was held out, see ``costs``.

        Replies with ``weights`` by node and ``values`` by tensor, in dB; ``None`` for nothing.
        """
        model = with_own_biases(onnx_models.load(Path(fields["model"])))
        int8 = onnx_models.load(Path(fields["int8"]))

        def judge(one: Any) -> float | None:
            return self._judged(one)[0]

        return {
            "weights": costs.of_weights(model, int8, judge),
            "values": costs.of_values(model, int8, judge),
        }

    def _loaded(self, model: Path, calibration: Path) -> tuple[Calibrated, Any]:
        """The histograms, and the float model as drafts have it; what was held out has answers."""
        given = onnx_models.load(model)
        unknown = [feeds for feeds, expected in self._held_out if not expected]
        if unknown:
            made = session(given)
            names = [output.name for output in given.graph.output]
            self._held_out = [
                (feeds, expected or dict(zip(names, made.run(names, dict(feeds)), strict=True)))
                for feeds, expected in self._held_out
            ]
        return Calibrated.load(calibration), with_own_biases(given)

    def _judged(self, model: Any) -> tuple[float | None, float | None]:
        """The worst output's SQNR in dB, and how often the first class of the first one agrees.

        ``None`` where nothing was held out, all is equal, or there are no classes.
        """
        if not self._held_out:
            return None, None
        made = session(model, optimize=self._exact)
        names = list(self._held_out[0][1])
        found = [made.run(names, dict(feeds)) for feeds, _ in self._held_out]
        pairs = []
        for place, name in enumerate(names):
            expected = [np.atleast_1d(answers[name]) for _, answers in self._held_out]
            given = [
                _rows(np.atleast_1d(outputs[place]), answers)
                for outputs, answers in zip(found, expected, strict=True)
            ]
            pairs.append((np.concatenate(given), np.concatenate(expected)))
        worst = min(float(metrics.sqnr_db(*pair)) for pair in pairs)
        given, expected = pairs[0]
        scores = expected.ndim == 2 and expected.shape[1] > 1
        agree = float(np.mean(given.argmax(1) == expected.argmax(1))) if scores else None
        return (worst if np.isfinite(worst) else None), agree


def _rows(output: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The rows of an output that there are answers to: one where no batch stands in front."""
    return output[None] if output.ndim < answers.ndim else output[: len(answers)]


def first_nodes(graph: Any) -> list[str]:
    """The convolutions that see the input, with the preprocessing that may stand before them.

    They stay in float: three channels are none that int8 kernels take in fours, so that in float
    the first convolution is faster, and more exact.
    """
    raw = {value.name for value in graph.input}
    found = []
    for node in graph.node:
        if raw.isdisjoint(node.input):
            continue
        if node.op_type in PREPROCESSING_OPERATORS:
            raw.update(node.output)
        if node.op_type in (*PREPROCESSING_OPERATORS, "Conv"):
            found.append(node.name)
    return found
