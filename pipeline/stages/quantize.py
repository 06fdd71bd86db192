"""Stages 3 and 4: calibrate once, then write each int8 variant, and prove what was quantized.

Static post-training quantization in QDQ form, in the one shape that x86 kernels are fast and
exact for: unsigned activations with a zero point, signed symmetric weights per channel. What the
``int8-avx2`` variant adds up is bounded for CPUs without VNNI, whose int8 kernels add pairs of
products in 16 bits and saturate. Both are made by the same recipe: see ``quantization.recipes``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...exporters.base import ModelError
from ...runners import images
from ...runners.bundles.index import AVX2, EXACT_INT8, Variant
from ...runners.machine.installed import versions
from ..cells import arithmetic
from ..errors import StageError
from ..numerics.precision import GIVEN, kind_of
from ..progress import Progress
from ..quantization import recipes
from ..quantization.histograms import NOT_FINITE
from ..quantization.qdq import worst_of_layers
from ..quantization.ranges import SETTLED
from ..quantization.scales import MOST_OF_A_PAIR
from ..storage import goldens
from ..storage.arrays import Arrays
from ..storage.dataset import Dataset
from ..storage.goldens import Goldens
from ..storage.workspace import Transaction
from . import graphs
from .modelspec import IMAGE_INPUT
from .native import Native, prepared
from .samples import Samples
from .simplify import FP32

CALIBRATION = "calibration.npz"
# Which variants are for CPUs whose int8 kernels saturate.
EXACT_PAIRS = {"int8": False, AVX2: True}
# What all int8 of a model is made from.
SOURCES = (FP32, CALIBRATION)
GIVEN_FILE = f"{GIVEN}.onnx"
# In the result of a stage: of which SOURCES, by SHA-256, ``quantize --search`` made its variant.
SEARCHED = "searched"
# Convolutions that may stay in float: the first one sees 3 channels, which the int8 kernels
# don't take in fours; in float it is faster and more exact.
MOST_FLOAT_CONVOLUTIONS = 1
# What ONNX Runtime makes of quantized products.
INTEGER_PRODUCTS = ("QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulInteger")
# Images in one calibration run when the model leaves the batch open.
DYNAMIC_CALIBRATION_BATCH = 16
# Calibration images that steps run: means of channels over so many hardly differ from those over
# all, see docs/quantization.md.
SAMPLES = 64


@dataclass(frozen=True)
class Calibrate:
    """Writes ``calibration.npz``: a histogram of every activation over the calibration images.

    ``method`` is how ranges will be chosen from them: it says whether these were enough.
    """

    preprocessing: images.Preprocessing | None
    batch: int
    samples: Samples
    native: Native
    method: str = recipes.BASELINE
    image_input: str = IMAGE_INPUT

    name = "calibrate"
    requires: tuple[str, ...] = (FP32,)
    ensures: tuple[str, ...] = (CALIBRATION,)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        return {
            "model": transaction.artifact(FP32).sha256,
            "images": self.about(),
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else {},
            "method": "histograms",
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy", "pillow"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        count = len(self._samples())
        with prepared(self.native, transaction.path(FP32), progress.say) as model:
            found = model.with_name(CALIBRATION)
            try:
                for feeds, valid in self.feeds():
                    self.native.ask("calibrate", feeds, model=model, images=count, count=valid)
            except StageError as error:
                if NOT_FINITE not in str(error):
                    raise
                raise ModelError(
                    "the calibration images give activations that are NaN or infinite, which "
                    "can't be quantized; --variant fp32 exports the model without int8"
                ) from error
            told = self.native.ask("histograms", output=found, method=self.method)
            transaction.write(CALIBRATION, found.read_bytes())
        moved, most, enough = told["unsettled"]
        if moved:
            progress.say(
                f"warning: calibrate: {moved} of {told['ranges']} ranges moved by more than "
                f"{SETTLED:.0%} in the last quarter of the {count} samples, by {most:.1%} at most: "
                f"about {enough} would do (--calibration-images)"
            )
        return {
            "images": self.about(),
            "unsettled": moved,
            "enough": enough,
            "summary": f"{count} samples ({self.samples.origin})",
        }

    def about(self) -> dict[str, Any]:
        """Which images these are."""
        return self.samples.about(self._samples())

    def feeds(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """One batch after the other, the last one filled up, with how many of it count."""
        some, preprocessing = self._samples(), self.preprocessing
        if not isinstance(some, Dataset):
            yield from ((feeds, valid) for feeds, _, valid in some.batches(self.batch))
            return
        assert preprocessing
        for pixels, _ in some.chunks(preprocessing, self.batch):
            full = np.resize(pixels, (self.batch, *pixels.shape[1:]))
            yield {self.image_input: images.normalize(full, preprocessing)}, len(pixels)

    def hand_over(self, held_out: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Give the worker what steps run, and what they are judged on: see ``Quantization``."""
        self.native.ask("forget")
        for feeds in self.sampled():
            self.native.ask("sample", feeds)
        for feeds in held_out:
            self.native.ask("held_out", feeds)

    def sampled(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The feeds that steps run."""
        runs = -(-SAMPLES // self.batch)
        return (feeds for feeds, _ in itertools.islice(self.feeds(), runs))

    def goldens(self, path: Path) -> Iterator[Mapping[str, np.ndarray]]:
        """Goldens with torch's answers, to be judged on."""
        return Goldens.load(path).as_feeds(self.preprocessing, self.image_input, self.batch)

    def _samples(self) -> Dataset | Arrays:
        assert self.samples.calibration
        return self.samples.calibration


def calibration_batch(batch: int | str) -> int:
    """Images in one calibration run of a model with that batch, a number or "dynamic"."""
    return DYNAMIC_CALIBRATION_BATCH if batch == "dynamic" else int(batch)


def needs_of(variant: str) -> str | None:
    """What a variant asks of a CPU, see ``index.Variant``.

    Those called "int8-avx2…" were proven when they were made, any other int8 needs exact sums:
    that of somebody else as well, whose weights nobody bounded.
    """
    proven = variant.startswith(AVX2)
    return EXACT_INT8 if kind_of(variant, "") == "int8" and not proven else None


def check_pairs(variant: str, pairs: Mapping[str, int]) -> None:
    """Raise ``StageError`` for a variant that says it can't saturate, and could."""
    over = [name for name, worst in pairs.items() if worst > MOST_OF_A_PAIR]
    if over and needs_of(variant) is None:
        raise StageError(f"{variant}: sums of {', '.join(over)} could leave 16 bits")


def saturates(variant: str, facts: Mapping[str, Any]) -> bool:
    """Whether int8 kernels of a machine can't compute a variant exactly. See ``host.facts``."""
    return Variant({}, needs_of(variant)).saturates(facts)


@dataclass(frozen=True)
class Quantize:
    """Writes ``int8.onnx`` or ``int8-avx2.onnx``, and what the file itself makes of the goldens.

    ``steps`` are those of its recipe.
    """

    variant: str
    steps: tuple[str, ...]
    calibrate: Calibrate

    requires: tuple[str, ...] = (FP32, CALIBRATION, goldens.FILE)

    @property
    def name(self) -> str:
        """The stage is named after what it makes."""
        return self.variant

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (f"{self.variant}.onnx", arithmetic.file_of(self.variant))

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        preprocessing = self.calibrate.preprocessing
        return {
            "model": transaction.artifact(FP32).sha256,
            "calibration": transaction.artifact(CALIBRATION).sha256,
            "images": self.calibrate.about(),
            "scheme": "QDQ, U8 activations, S8 symmetric weights per channel",
            "recipe": list(self.steps),
            "plugins": recipes.origins(self.steps),
            "exact_pairs": EXACT_PAIRS[self.variant],
            "goldens": transaction.artifact(goldens.FILE).sha256,
            "preprocessing": preprocessing.to_json() if preprocessing else {},
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        native, preprocessing = self.calibrate.native, self.calibrate.preprocessing
        with prepared(native, transaction.path(FP32)) as model:
            output = model.with_name(self.ensures[0])
            self.calibrate.hand_over(self.calibrate.goldens(transaction.path(goldens.FILE)))
            made = native.ask(
                "quantize",
                model=model,
                output=output,
                calibration=transaction.path(CALIBRATION),
                recipe=list(self.steps),
                floats=[],
                exact_pairs=EXACT_PAIRS[self.variant],
                each=True,
            )
            check_pairs(self.variant, made["pairs"])
            own = arithmetic.compute(output, transaction.path(goldens.FILE), preprocessing)
            for name, data in zip(self.ensures, (output.read_bytes(), own.to_bytes()), strict=True):
                transaction.write(name, data)
            proof = kernels(output)
        floats, clips = proof["float_convolutions"], proof["clips"]
        if len(floats) > MOST_FLOAT_CONVOLUTIONS:
            progress.say(
                f"warning: {self.variant}: {len(floats)} convolutions stay in float: "
                f"{', '.join(floats)}"
            )
        if clips:
            progress.say(f"warning: {self.variant}: Clip is left at {', '.join(clips)}")
        gained = [tuple(one) for one in made["gained"]]
        progress.say(f"{self.variant:<9} {_gains(gained)}")
        return {
            **proof,
            "recipe": list(self.steps),
            "gained": gained,
            "pairs": made["pairs"],
            "summary": f"{in_integers(proof)}, {len(clips)} Clip left",
        }


class Trouble(Protocol):
    """Something that makes a quantized file slow or wrong."""

    @property
    def kind(self) -> str:
        """What it is called."""
        ...

    @property
    def text(self) -> str:
        """What it means."""
        ...


@dataclass(frozen=True)
class Given:
    """Writes what a quantized file itself makes of the goldens, and says what runs in int8.

    ``troubles`` finds what makes its model slow or wrong.
    """

    preprocessing: images.Preprocessing | None
    variant: str = GIVEN
    troubles: Callable[[Any], Iterable[Trouble]] = lambda _model: ()

    @property
    def name(self) -> str:
        """The stage is named after what it judges."""
        return self.variant

    @property
    def requires(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (f"{self.variant}.onnx", goldens.FILE)

    @property
    def ensures(self) -> tuple[str, ...]:
        """See ``Stage``."""
        return (arithmetic.file_of(self.variant),)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """See ``Stage.depends``."""
        model = transaction.artifact(f"{self.variant}.onnx").sha256
        return {**self._judged_by(transaction), "model": model}

    def _judged_by(self, transaction: Transaction) -> dict[str, Any]:
        return {
            "goldens": transaction.artifact(goldens.FILE).sha256,
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else {},
            "versions": versions("edgepipe", "onnxruntime", "onnx", "numpy"),
        }

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """See ``Stage.run``."""
        import onnx

        path = transaction.path(f"{self.variant}.onnx")
        own = arithmetic.compute(path, transaction.path(goldens.FILE), self.preprocessing)
        transaction.write(arithmetic.file_of(self.variant), own.to_bytes())
        proof = kernels(path)
        model = onnx.load(path)
        found = list(self.troubles(model))
        for one in found:
            progress.say(f"warning: {self.variant}: {one.text}")
        return {
            **proof,
            "pairs": worst_of_layers(model),
            "troubles": [{"kind": one.kind, "text": one.text} for one in found],
            "summary": in_integers(proof),
        }


def _gains(gained: Sequence[tuple[str, float | None]]) -> str:
    """What each step gained, in dB."""
    known = [(step, sqnr_db) for step, sqnr_db in gained if sqnr_db is not None]
    if not known:
        return f"{', '.join(step for step, _ in gained)}: the same answers as in float"
    (first, start), *others = known
    parts = [f"{first} {start:.1f} dB"]
    for (_, before), (step, sqnr_db) in itertools.pairwise(known):
        parts.append(f"{step} {sqnr_db - before:+.1f}")
    total = f" = {known[-1][1]:.1f} dB" if others else ""
    return f"{', '.join(parts)}{total} from float on the goldens"


def in_integers(proof: Mapping[str, Any]) -> str:
    """How much of a model runs in integers, from what ``kernels`` found."""
    quantized, floats = proof["quantized_convolutions"], len(proof["float_convolutions"])
    if quantized + floats:
        return f"{quantized} of {quantized + floats} convolutions run as QLinearConv"
    operators = proof["operators"]
    products = {name: operators[name] for name in INTEGER_PRODUCTS if name in operators}
    listed = ", ".join(f"{count} {name}" for name, count in products.items())
    return f"no convolutions; {listed or 'no products'} in integers"


def kernels(model: Path) -> dict[str, Any]:
    """What ONNX Runtime makes of a quantized model, read from its optimized graph.

    ``quantized_convolutions`` counts QLinearConv; ``float_convolutions`` and ``clips`` name
    the nodes that are still computed in float; ``operators`` counts all kinds of nodes.
    """
    graph = graphs.optimized(model)
    operators = Counter(node.op_type for node in graph.node)
    return {
        "quantized_convolutions": operators["QLinearConv"],
        "float_convolutions": [
            node.name for node in graph.node if node.op_type in ("Conv", "FusedConv")
        ],
        "clips": [node.name for node in graph.node if node.op_type == "Clip"],
        "operators": dict(sorted(operators.items())),
    }
