"""Whole workspaces made of nothing in a millisecond, and scripts that answer for their files.

The model is linear, so that numpy gives its answers, right or wrong in whatever way is asked for.
A variant's file is a valid ONNX file of some other network: nobody here looks inside.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from edgepipe.pipeline.storage import digits, made_here
from edgepipe.pipeline.storage.goldens import FILE, Goldens
from edgepipe.pipeline.storage.manifest import Artifact, Manifest, StageRecord
from edgepipe.runners.base import TensorSpec
from edgepipe.runners.images import Preprocessing, normalize, stack
from edgepipe.runners.testing import onnx_cases
from edgepipe.runners.workers.scripted import Script

SIDE, CLASSES = 8, 10

PREPROCESSING = Preprocessing(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAME = "mobilenet_v2"
COSTS = {"parameters": 1920, "macs": 1920, "activation_peak_bytes": 7680}
VARIANTS = ("fp32", "int8", "int8-avx2")
# How far a quantized file is from the float one, as a share of its answers: 34 dB.
QUANTIZED = 0.02
Arrays = Mapping[str, np.ndarray]
Answer = Callable[[Arrays], dict[str, np.ndarray]]


def contents(files: Mapping[str, bytes | Path]) -> dict[str, bytes]:
    """Of files that are there as their bytes or their places."""
    return {
        name: data.read_bytes() if isinstance(data, Path) else data for name, data in files.items()
    }


@dataclass
class Made:
    """A workspace ``root/mobilenet_v2`` whose model tells the digits by the nearest class mean.

    ``batch`` is a number or "dynamic"; ``outputs`` are the names of the model's, the first one its
    scores; with ``images`` False it takes an array "input" and classifies nothing. ``reference``
    says what torch's answers are: "torch's" (float32 a rounding from its float64), "exact" (equal
    in both), "nan" or "constant". ``edition`` tells files apart that are otherwise the same.
    """

    root: Path
    batch: int | str = 1
    outputs: tuple[str, ...] = ("logits",)
    images: bool = True
    reference: str = "torch's"
    variants: tuple[str, ...] = VARIANTS
    count: int = 32
    model: Mapping[str, Any] = field(default_factory=dict)
    program: bool = False
    edition: str = ""

    def __post_init__(self) -> None:
        self.folder = self.root / NAME
        self.folder.mkdir(parents=True)
        self.write()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        rows = None if self.batch == "dynamic" else int(self.batch)
        return (TensorSpec("input", "float32", (rows, 3, SIDE, SIDE)),)

    def answer(self, variant: str = "fp32", dtype: str = "float32") -> Answer:
        """What the variant's file says of feeds: ``logits``, and for every other output less."""
        weights, bias = templates()
        if variant.startswith("int8"):
            noise = np.random.default_rng(len(variant)).normal(size=weights.shape)
            weights = weights * (1 + QUANTIZED * noise)

        def answer(feeds: Arrays) -> dict[str, np.ndarray]:
            taken = feeds["input"].astype(np.float64).reshape(len(feeds["input"]), -1)
            scores = taken @ weights + bias
            if self.reference == "constant":
                scores = np.ones_like(scores) * np.arange(CLASSES) / 3
            if self.reference == "exact":
                scores = np.round(scores)
            if self.reference == "nan":
                scores[:, 3] = np.nan
            return {
                name: (scores / place).astype(dtype)
                for place, name in enumerate(self.outputs, start=1)
            }

        return answer

    def script(self, variant: str = "fp32", **changes: Any) -> Script:
        """A runner that answers as the variant's file does."""
        rows = self.inputs[0].shape[0]
        specs = tuple(TensorSpec(name, "float32", (rows, CLASSES)) for name in self.outputs)
        return Script(
            **{"answer": self.answer(variant), "inputs": self.inputs, "outputs": specs, **changes}
        )

    def scripts(self, *runners: str, **changes: Any) -> dict[str, Script]:
        """Those of some runners for all variants."""
        return {
            key: self.script(variant, **changes)
            for runner in runners
            for variant in self.variants
            for key in (
                (runner, f"{runner}/fp32") if variant == "fp32" else (f"{runner}/{variant}",)
            )
        }

    def digest(self, variant: str) -> str:
        """The SHA-256 of a variant's file."""
        return digest((self.folder / f"{variant}.onnx").read_bytes())

    def write(self) -> None:
        """The files, and the manifest that vouches for them."""
        goldens = self._goldens()
        files = {FILE: goldens.to_bytes()}
        files |= {f"{variant}.onnx": model(variant + self.edition) for variant in self.variants}
        if self.program:
            files["fp32.pt2"] = b"a program"
        for variant in self.variants:
            if variant.startswith("int8"):
                files[f"{variant}.{FILE}"] = self._own(variant, goldens, files)
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        manifest = self._manifest(files)
        (self.folder / "manifest.json").write_text(manifest.to_json())
        assert made_here.note(manifest.variants, manifest.artifacts) is None

    def _goldens(self) -> Goldens:
        pictures, labels = (array[: self.count] for array in digits.pictures("held_out"))
        pixels = stack(pictures, PREPROCESSING)
        feeds = {"input": normalize(pixels, PREPROCESSING)}
        fp32, fp64 = self.answer()(feeds), self.answer(dtype="float64")(feeds)
        images, arrays = (pixels, {}) if self.images else (None, feeds)
        return Goldens(images, labels.astype(np.int64), fp32, fp64, arrays)

    def _own(self, variant: str, goldens: Goldens, files: Mapping[str, bytes]) -> bytes:
        """What the quantized file itself makes of the goldens."""
        feeds = (part for part, _, _ in goldens.batches(PREPROCESSING, "input", self.count))
        outputs = self.answer(variant)(next(feeds))
        about = {
            "model_sha256": np.array(digest(files[f"{variant}.onnx"])),
            "goldens_sha256": np.array(digest(files[FILE])),
        }
        buffer = io.BytesIO()
        named = {f"own.{name}": array for name, array in outputs.items()}
        np.savez(buffer, allow_pickle=False, **about, **named)
        return buffer.getvalue()

    def _manifest(self, files: Mapping[str, bytes]) -> Manifest:
        artifacts = {name: Artifact(digest(data), len(data)) for name, data in files.items()}
        shape = PREPROCESSING.to_json() if self.images else {}
        described = [{"name": name, "dtype": "float32"} for name in self.outputs]
        about = {
            "name": NAME,
            "architecture": NAME,
            "width": 1.0,
            "weights": "digits",
            "weights_sha256": "ab" * 32,
            "weights_from": None,
            "trained": True,
            **COSTS,
            "classes": CLASSES if self.images else None,
            "batch": self.batch,
            "inputs": [{"name": "input", "dtype": "float32", "shape": [3, SIDE, SIDE]}],
            "outputs": [{**one, "shape": [CLASSES]} for one in described],
            "input_size": SIDE if self.images else None,
            "named_inputs": (),
            "exporter": "onnx-dynamo",
            "opset": 20,
            "own_preprocessing": shape,
            "goldens": {"from": "digits", "count": self.count},
            "calibration": None,
            "simplify": True,
            "simplified": True,
            "not_simplified_because": None,
        }
        variants = {name: {"onnx": f"{name}.onnx"} for name in self.variants}
        if self.program:
            variants["fp32"]["pt2"] = "fp32.pt2"
        made = {**COSTS, "classes": about["classes"]}
        return Manifest(
            model={**about, **self.model},
            preprocessing=shape,
            labels=tuple("0123456789") if self.images else None,
            variants=variants,
            stages=(StageRecord("export", "0" * 64, {}, tuple(sorted(files)), made),),
            artifacts=artifacts,
            tools={"edgepipe": "0.1.0", "torch": "2.13.0"},
        )


@cache
def templates() -> tuple[np.ndarray, np.ndarray]:
    """The classifier by the nearest class mean, which is linear: weights ``[192, 10]``, bias."""
    pictures, labels = digits.pictures("train")
    tensor = normalize(stack(pictures, PREPROCESSING), PREPROCESSING)
    flat = tensor.reshape(len(tensor), -1)
    means = np.stack([flat[labels == label].mean(axis=0) for label in range(CLASSES)])
    return means.T.astype(np.float32), (-0.5 * np.sum(means**2, axis=1)).astype(np.float32)


def model(name: str) -> bytes:
    """A valid ONNX file that differs by its name, which is its documentation string."""
    (network,) = onnx_cases((1,))[0].files.values()
    return network + bytes((0x32, len(name))) + name.encode()


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def changed(
    answer: Callable[[Arrays], Arrays],
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Answer:
    """Answers with something done to them."""
    return lambda feeds: change(dict(answer(feeds)))
