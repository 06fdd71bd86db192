"""Rectangles, grey and many channels: from a module of the user's own to a bundle's answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepipe.runners import load_bundle

NETS = """
from torch import nn


def net(channels):
    layers = [nn.Conv2d(channels, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU()]
    # No pooling: which side is which has to matter. 48 x 64 pixels are 11 x 15 by now.
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 11 * 15, 5))


def grey():
    return net(1)


def wide():
    return net(3)


def bands():
    return net(6)
"""
SIZE = ("--input-size", "48x64")
RUNNERS = ("--runner", "ort-cpu", "--runner", "openvino", "--runner", "torch")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules, photographs of colours, and arrays of six channels in class folders."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "nets.py").write_text(NETS)
    random = np.random.default_rng(1)
    (folder / "photos").mkdir()
    for number in range(40):
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        coarse.resize((90, 60)).save(folder / "photos" / f"{number:02}.png")
        label = folder / "arrays" / str(number % 5)
        label.mkdir(parents=True, exist_ok=True)
        array = random.integers(0, 256, (5, 7, 6), np.uint8).repeat(12, axis=0).repeat(12, axis=1)
        np.save(label / f"{number:02}.npy", array)
    return folder


def run(folder: Path, *arguments: str, code: int = 0) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", *arguments]
    environment = dict(os.environ)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def manifest(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "artifacts" / name / "manifest.json").read_text())


def verdicts(folder: Path, name: str, *flags: str, code: int = 0) -> list[str]:
    done = run(folder, "parity", "--model", name, *flags, "--json", code=code)
    return [cell["verdict"] for cell in json.loads(done.stdout)["cells"]]


def answers(folder: Path, name: str, *images: str) -> list[dict[str, float]]:
    """What predict says: the probability of each label."""
    done = run(folder, "predict", *images, "--model", name, "--json")
    found = json.loads(done.stdout)["predictions"]
    return [{guess["label"]: guess["probability"] for guess in one["top"]} for one in found]


@pytest.fixture(scope="module")
def grey(work: Path) -> Path:
    """A rectangle of one channel that normalizes by itself."""
    flags = (*SIZE, "--channels", "grey", "--preprocessing", "inception", "--fold-preprocessing")
    run(work, "export", "nets:grey", *flags, "--calibration", "photos", "--variant", "fp32")
    return work


def test_a_grey_rectangle_is_what_every_file_of_it_says(grey: Path) -> None:
    found = manifest(grey, "grey")
    assert found["preprocessing"] == {
        "size": [48, 64],
        "mean": [0.5],
        "std": [0.5],
        "resize": "shorter-side",
        "resize_to": 55,
        "interpolation": "bilinear",
        "channels": "grey",
        "folded": True,
    }
    assert found["model"]["inputs"] == [{"name": "input", "dtype": "uint8", "shape": [48, 64, 1]}]
    assert found["model"]["input_size"] == [48, 64]
    with np.load(grey / "artifacts" / "grey" / "goldens.npz") as goldens:
        assert goldens["images"].shape[1:] == (48, 64, 1)
    assert verdicts(grey, "grey", *RUNNERS) == ["pass"] * 3
    report = run(grey, "report", "--model", "grey", "--format", "markdown", "--output", "-.md")
    assert report.stdout.endswith("-.md\n")
    text = (grey / "-.md").read_text()
    assert "48 × 64 (height × width) pixels" in text
    assert "| golden 0 | 0 grey |" in text
    flags = "--preprocessing inception --channels grey --fold-preprocessing"
    assert f"edgepipe export nets:grey {flags}" in text
    assert "--input-size 48x64" in text


def test_a_bundle_of_it_answers_as_predict_does(grey: Path) -> None:
    run(grey, "package", "--model", "grey", "--variant", "fp32", "--output", "bundles")
    (path,) = (grey / "bundles").iterdir()
    run(grey, "verify", str(path), "--runner", "ort-cpu")
    (expected,) = answers(grey, "grey", "photos/03.png")
    with load_bundle(path, runner="ort-cpu") as model:
        with Image.open(grey / "photos" / "03.png") as opened:
            photo = np.asarray(opened)
        for image in (grey / "photos" / "03.png", photo):
            found = dict(model.predict(image).top())
            assert found == pytest.approx(expected, abs=1e-5)
        frame = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
        # Its size, but resized to 55 before the crop: no way around Pillow.
        assert model.predict(frame).probabilities.shape == (5,)
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\] or \[H, W\], this is"):
            model.predict(np.zeros((48, 64, 6), np.uint8))
    done = run(grey, "predict", "photos/03.png", "--model", "grey", "--show", "grey.png")
    assert "03.png" in done.stdout
    with Image.open(grey / "grey.png") as drawn:
        assert drawn.width > 1000


def test_arrays_of_many_channels_through_all_of_it(work: Path) -> None:
    flags = (*SIZE, "--channels", "6", "--calibration", "arrays", "--labels", "labels.txt")
    (work / "labels.txt").write_text("".join(f"{number}\n" for number in range(5)))
    done = run(work, "export", "nets:bands", *flags, "--variant", "fp32", "--variant", "int8-avx2")
    said = "preprocessing none: nothing says what the weights were trained with"
    assert said in done.stderr
    found = manifest(work, "bands")
    assert (found["preprocessing"]["channels"], found["preprocessing"]["mean"]) == (
        "bands",
        [0.0] * 6,
    )
    assert found["model"]["inputs"][0]["shape"] == [6, 48, 64]
    assert verdicts(work, "bands", *RUNNERS, "--variant", "fp32") == ["pass"] * 3
    done = run(work, "evaluate", "--model", "bands", "--data", "arrays", "--json")
    assert json.loads(done.stdout)["data"]["images"] == 40
    first = answers(work, "bands", "arrays/0/00.npy", "arrays/1/01.npy")
    assert len(answers(work, "bands", "arrays/0")) == 8
    np.save(work / "few.npy", np.zeros((9, 9, 5), np.uint8))
    refused = run(work, "predict", "few.npy", "photos/00.png", "--model", "bands", code=3)
    assert "few.npy: uint8 [9, 9, 5], uint8 [H, W, 6] expected" in refused.stdout
    assert (
        "photos/00.png: no .npy array; images of 6 channels are uint8 [H, W, 6]" in refused.stdout
    )
    run(work, "predict", "arrays/0/00.npy", "--model", "bands", "--show", "bands.png")
    kept = ("--variant", "fp32", "--output", "bundled", "--model", "bands")
    run(work, "package", *kept, "--allow-failed-parity")
    (path,) = (work / "bundled").iterdir()
    with load_bundle(path, runner="ort-cpu") as model:
        image = np.load(work / "arrays" / "0" / "00.npy")
        for one in (image, work / "arrays" / "0" / "00.npy"):
            assert dict(model.predict(one).top()) == pytest.approx(first[0], abs=1e-5)
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 6\], this is uint8 \(9, 9, 3\)"):
            model.predict(np.zeros((9, 9, 3), np.uint8))
    run(work, "quantize", "--model", "bands", "--recipe", "minmax", "--calibration", "arrays")


def test_a_wide_photograph_in_int8(work: Path) -> None:
    flags = (*SIZE, "--preprocessing", "imagenet", "--calibration", "photos")
    run(work, "export", "nets:wide", *flags, "--variant", "fp32", "--variant", "int8-avx2")
    found = manifest(work, "wide")
    assert (found["preprocessing"]["size"], found["preprocessing"]["resize_to"]) == ([48, 64], 55)
    assert verdicts(work, "wide", *RUNNERS, "--variant", "fp32") == ["pass"] * 3
    run(work, "bench", "--quick", "--model", "wide", "--runner", "ort-cpu")
    (turned,) = answers(work, "wide", "photos/00.png")
    assert sum(turned.values()) == pytest.approx(1, abs=1e-4)


def test_what_does_not_go_together_is_one_line(work: Path) -> None:
    export = ("export", "nets:grey", "--variant", "fp32", "--calibration", "synthetic")
    colors = run(work, *export, "--channels", "1", "--preprocessing", "imagenet", code=2)
    assert "imagenet has a" in colors.stderr
    assert "for red, green and blue: give mean and std of 1 channel" in colors.stderr
    many = run(work, *export, "--channels", "4", code=3)
    assert "images come with 4 here, its first convolution takes 1 channel: --channels 1" in (
        many.stderr
    )
    size = run(work, *export, "--input-size", "48x", code=2)
    assert "export.input-size (command line): not a side, or HEIGHTxWIDTH" in size.stderr
