"""Which model, under which name, with which preprocessing: every way to say it, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgepipe.pipeline.errors import InputError, UsageError
from edgepipe.pipeline.settings import load as configuration
from edgepipe.pipeline.settings.making import ExportConfig
from edgepipe.pipeline.stages import samples
from edgepipe.pipeline.stages.modelspec import name_of, settle, specify
from edgepipe.pipeline.storage.arrays import ArrayInput, Arrays
from edgepipe.pipeline.storage.dataset import Dataset
from edgepipe.runners.images import Preprocessing


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Settled(NamedTuple):
    export: ExportConfig
    model: str


def config(model: str | None = None, name: str | None = None, **export: Any) -> Any:
    """What ``edgepipe export MODEL --name NAME …`` settles on."""
    flags = {"model": name or (model and name_of(model))}
    asked = configuration.load({**flags, "export": {"architecture": model, **export}})
    section, called = settle(asked.export, asked.model, "model" in asked.model_fields_set)
    return Settled(section, called)


def checkpoint(path: Path, **metadata: str) -> Path:
    """A .safetensors file with one number in it."""
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1, np.float32)}, path, metadata)
    return path


def named(found: Any) -> tuple[str, str]:
    return found.model, found.export.architecture


def test_a_model_is_called_like_its_architecture_unless_told(tmp_path: Path) -> None:
    assert named(config()) == ("mobilenet_v2", "mobilenet_v2")
    assert named(config("vgg16")) == ("vgg16", "vgg16")
    assert named(config("vgg16", name="mine")) == ("mine", "vgg16")
    assert named(config("nets.big:build")) == ("build", "nets.big:build")
    file = checkpoint(tmp_path / "a.safetensors", architecture="squeezenet1_1")
    assert named(config(checkpoint=file)) == ("squeezenet1_1", "squeezenet1_1")
    assert named(config(checkpoint=file, name="mine")) == ("mine", "squeezenet1_1")
    assert named(config("vgg16", checkpoint=file)) == ("vgg16", "vgg16")
    silent = checkpoint(tmp_path / "b.safetensors")
    assert named(config(checkpoint=silent, name="mine")) == ("mine", "mobilenet_v2")


def test_the_file_can_say_it_all(tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        'model = "mine"\n[export]\narchitecture = "vgg16"\nmean = [0.1, 0.2, 0.3]\n'
        "resize-to = 300\n"
    )
    assert named(config()) == ("mine", "vgg16")
    assert named(config("mobilenet_v2")) == ("mobilenet_v2", "mobilenet_v2")
    spec = specify(config("mobilenet_v2").export, print)
    assert spec.preprocessing
    assert spec.preprocessing.mean == (0.1, 0.2, 0.3)
    assert (spec.preprocessing.resize, spec.preprocessing.resize_to) == ("squash", 300)


def test_a_checkpoint_that_says_what_it_is_needs_no_flags_and_flags_win(tmp_path: Path) -> None:
    trained = Preprocessing.preset("inception", 96)
    about = {"labels": '["ant", "bee"]', "preprocessing": json.dumps(trained.to_json())}
    file = checkpoint(tmp_path / "a.safetensors", architecture="mobilenet_v2", width="0.5", **about)
    spec = specify(config(checkpoint=file).export, print)
    assert (spec.source.labels, spec.source.classes) == (("ant", "bee"), 2)
    assert (spec.source.width, spec.preprocessing, spec.notes) == (0.5, trained, ())
    (tmp_path / "labels.txt").write_text("wasp\nfly\n")
    other = config(checkpoint=file, labels=tmp_path / "labels.txt", preprocessing="none", width=1.0)
    told = specify(other.export, print)
    assert (told.source.labels, told.source.width) == (("wasp", "fly"), 1.0)
    assert told.preprocessing == Preprocessing.preset("none")
    bad = checkpoint(tmp_path / "b.safetensors", labels='["a"]', preprocessing='{"size": 3}')
    with pytest.raises(InputError, match="its metadata can't be used"):
        specify(config(checkpoint=bad).export, print)


def preprocessing(**export: Any) -> Preprocessing:
    found = specify(config(weights="random", **export).export, print).preprocessing
    assert found
    return found


def test_a_preset_gives_way_to_single_keys() -> None:
    assert preprocessing(preprocessing="imagenet") == Preprocessing.preset("imagenet")
    small = preprocessing(preprocessing="imagenet", input_size=112)
    assert (small.size, small.resize_to) == (112, 128)
    squashed = preprocessing(preprocessing="imagenet", resize="squash")
    assert (squashed.resize, squashed.resize_to) == ("squash", None)
    other = preprocessing(channels="bgr", std=(1, 1, 1), interpolation="bicubic")
    assert (other.channels, other.std, other.interpolation) == ("bgr", (1, 1, 1), "bicubic")
    assert preprocessing(fold_preprocessing=True).folded


def test_a_rectangle_is_resized_in_proportion_to_its_shorter_side() -> None:
    wide = preprocessing(preprocessing="imagenet", input_size="112x320", channels=3)
    assert (wide.size, wide.resize_to, wide.channels) == ((112, 320), 128, "rgb")
    assert preprocessing(input_size="96x96").size == 96


def test_another_size_than_the_weights_were_trained_at_is_said() -> None:
    wide = specify(config(input_size=(96, 128)).export, print)
    assert wide.notes == ("96x128 pixels: the weights were trained at 224",)
    assert specify(config(input_size=96).export, print).notes == (
        "96 pixels: the weights were trained at 224",
    )
    same: list[dict[str, Any]] = [{}, {"input_size": 224}, {"input_size": 96, "weights": "random"}]
    for export in same:
        assert specify(config(**export).export, print).notes == ()


@pytest.mark.parametrize(
    ("model", "export", "words"),
    [
        ("vgg61", {}, "did you mean vgg16?"),
        (None, {"labels": "labels.txt"}, "labels: they go with a --checkpoint"),
        (None, {"weights": "random", "checkpoint": __file__}, "weights: random or the model's own"),
        ("a:b", {"weights": "random"}, "weights: random or the model's own"),
        (None, {"inputs": ("x:1x3",)}, "inputs: only a module of your own"),
        (None, {"args": ("classes=3",)}, "args: they go with a module of your own"),
        ("a:b", {"args": ("classes=3", "classes=4")}, "args: classes is given twice"),
        ("a:b", {"args": ("classes",)}, "an argument is NAME=VALUE"),
        ("a:b", {"inputs": ("x:1x3", "x:1x4")}, "inputs: x is given twice"),
        ("a:b", {"inputs": ("../x:1x3",)}, "inputs: ../x is no name that a module's input"),
        ("a:b", {"inputs": ("a..b:1x3",)}, "inputs: a..b is no name that a module's input"),
        (None, {"inputs": ("x:3",)}, "the shape of x is to start with the batch"),
        (None, {"preprocessing": "imagnet"}, "did you mean imagenet?"),
        (None, {"resize_to": 100}, "can't cut 224 pixels out of 100"),
        (None, {"std": (0, 1, 1)}, "those of std above 0"),
        (None, {"channels": "gbr"}, "channels"),
        (None, {"channels": "grey"}, "channels: the zoo's architectures take three"),
        (None, {"channels": 4}, "channels: the zoo's architectures take three"),
        (None, {"mean": (0.5,)}, "mean and std have 3 values each"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: str | None, export: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        specify(config(model, **export).export, print)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "-x"])
def test_a_name_is_that_of_a_folder_in_the_workspace(name: str) -> None:
    with pytest.raises(UsageError, match="model"):
        configuration.load({"model": name})


# Inputs that are no images --------------------------------------------------------------------


def test_an_input_is_read_from_its_description() -> None:
    assert ArrayInput.parse("x:1x3x8") == ArrayInput("x", (3, 8))
    assert ArrayInput.parse("t:Nx16:int64:0..99") == ArrayInput("t", (16,), "int64", 0, 99)
    assert ArrayInput.parse("s:1") == ArrayInput("s", ())
    # An ONNX file's names are its own.
    assert ArrayInput.parse("serving:0:1x4") == ArrayInput("serving:0", (4,))
    assert ArrayInput.parse("batch.mask:1x4:bool") == ArrayInput("batch.mask", (4,), "bool")
    assert ArrayInput.parse("f:1x2:float32:-1..0.5") == ArrayInput("f", (2,), "float32", -1, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        *("x", "x:", "x:3x4", "a b:1x3", "x:1x0", "x:1x-3", "x:1x3:float16", "x:1x3:int64"),
        *("x:1x3:int64:5", "x:1x3:int64:9..0", "x:1x3:int64:0..inf", "x:1x3:int64:0..9:more"),
        *("x:1x99999x99999", "a=b:1x3"),
    ],
)
def test_a_description_that_says_too_little_or_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ArrayInput.parse(text)


def test_random_values_are_in_range_and_always_the_same() -> None:
    tokens = ArrayInput.parse("t:1x50:int64:3..5").random(20, seed=1)
    assert (tokens.dtype, tokens.shape) == (np.int64, (20, 50))
    assert set(np.unique(tokens)) == {3, 4, 5}
    uniform = ArrayInput.parse("f:1x50:float32:0..2").random(20, seed=1)
    assert (uniform.dtype, uniform.min() >= 0, uniform.max() <= 2) == (np.float32, True, True)
    assert set(np.unique(ArrayInput.parse("b:1x50:bool").random(2, 0))) == {False, True}
    normal = ArrayInput.parse("x:1x50")
    np.testing.assert_array_equal(normal.random(4, 7), normal.random(4, 7))
    assert np.any(normal.random(4, 7) != normal.random(4, 8))


def test_arrays_come_from_a_file_that_has_them_all(tmp_path: Path) -> None:
    inputs = (ArrayInput("a", (2,)), ArrayInput("b", (), "int64", 0, 9))
    path = tmp_path / "samples.npz"
    np.savez(path, a=np.ones((9, 2), np.float32), b=np.arange(9), other=np.zeros(1))
    loaded = Arrays.load(path, inputs, most=4)
    assert (len(loaded), loaded.values["b"].tolist()) == (4, [0, 1, 2, 3])
    bad: list[dict[str, Any]] = [
        {"a": np.ones((9, 2), np.float32)},
        {"a": np.ones((9, 3), np.float32), "b": np.arange(9)},
        {"a": np.ones((9, 2)), "b": np.arange(9)},
        {"a": np.ones((9, 2), np.float32), "b": np.arange(3)},
        {"a": np.ones((0, 2), np.float32), "b": np.arange(0)},
        {"a": np.array([object()]), "b": np.arange(1)},
    ]
    for arrays in bad:
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=r"samples\.npz"):
            Arrays.load(path, inputs, most=4)
    path.write_text("no archive")
    with pytest.raises(InputError, match=r"not an \.npz"):
        Arrays.load(path, inputs, most=4)


# How a folder is shared out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "goldens", "calibration", "words"),
    [
        (300, 64, 100, []),
        (140, 46, 94, ["94 images to calibrate with, 100 asked for"]),
        (60, 20, 40, ["40 images to calibrate with, 100 asked for"]),
        (33, 16, 17, ["17 images to calibrate with, 100 asked for"]),
        (20, 20, 20, ["the goldens calibrate, too", "20 images to calibrate with"]),
        (5, 5, 5, ["the goldens calibrate, too", "5 images", "too few for parity"]),
    ],
)
def test_goldens_and_calibration_share_a_folder(
    tmp_path: Path, images: int, goldens: int, calibration: int, words: list[str]
) -> None:
    for number in range(images):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())
    settled = config(weights="random", calibration=tmp_path / "photos", calibration_images=100)
    chosen = samples.choose(settled.export, specify(settled.export, print), ("int8",))
    assert isinstance(chosen.calibration, Dataset)
    assert (len(chosen.goldens), len(chosen.calibration)) == (goldens, calibration)
    assert len(chosen.notes) == len(words)
    for note, word in zip(chosen.notes, words, strict=True):
        assert word in note
    only = samples.choose(settled.export, specify(settled.export, print), ())
    assert (only.goldens.digest, only.calibration) == (chosen.goldens.digest, None)


def test_one_class_only_is_a_warning(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "photos" / "ant" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settled = config(weights="random", calibration=tmp_path / "photos", calibration_images=16)
    notes = samples.choose(settled.export, specify(settled.export, print), ("int8",)).notes
    assert len(notes) == 1
    assert "one class only" in notes[0]
