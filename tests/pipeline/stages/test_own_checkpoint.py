"""A user's own checkpoint and images: a workspace that answers as the weights do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgepipe.pipeline.storage import dataset
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.runners.images import Preprocessing, normalize

if TYPE_CHECKING:
    import torch

Run = Callable[..., CompletedProcess[str]]
LABELS = ("adder", "boa", "cobra", "mamba", "viper")
SIZE = 64
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1))  # fmt: skip


def forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """MobileNetV2 from nothing but its weights, by the paper's table: no module of edgepipe's."""
    from torch.nn import functional as f

    def unit(x: Any, conv: str, norm: str, stride: int = 1, activate: bool = True) -> Any:
        weight = state[f"{conv}.weight"]
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = f.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{norm}.{name}"] for name in names)
        x = f.batch_norm(x, mean, variance, scale, shift)
        return x.clamp(0, 6) if activate else x

    x = unit(x, "features.0.0", "features.0.1", 2)
    number = 0
    for expansion, _, repeats, first in BLOCKS:
        for repeat in range(repeats):
            number += 1
            block, stride, y, place = f"features.{number}.conv", 1 if repeat else first, x, 0
            if expansion > 1:
                y, place = unit(y, f"{block}.0.0", f"{block}.0.1"), 1
            y = unit(y, f"{block}.{place}.0", f"{block}.{place}.1", stride)
            y = unit(y, f"{block}.{place + 1}", f"{block}.{place + 2}", activate=False)
            x = x + y if repeat else y
    x = unit(x, "features.18.0", "features.18.1").mean((2, 3))
    return f.linear(x, state["classifier.1.weight"], state["classifier.1.bias"])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, labels and photos, all made up."""
    import torch

    from edgepipe.exporters.zoo.mobilenet_v2 import MobileNetV2

    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(5)
    state = MobileNetV2(classes=5).state_dict()
    for value in state.values():
        if value.ndim == 4:  # keep the signal alive through all the layers
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 9},
               folder / "snakes.pt")  # fmt: skip
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    random = np.random.default_rng(0)
    for label in LABELS:
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(12):
            coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
            coarse.resize((96, 72)).save(folder / "photos" / label / f"{number}.jpg")
    return folder


def run(folder: Path, *arguments: str) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=dict(os.environ))


FLAGS = ("--checkpoint", "snakes.pt", "--labels", "labels.txt", "--name", "snakes",
         "--preprocessing", "inception", "--input-size", str(SIZE),
         "--calibration", "photos", "--calibration-images", "24", "--variant", "fp32",
         "--variant", "int8")  # fmt: skip


@pytest.fixture(scope="module")
def snakes(work: Path) -> Path:
    """What the export of that folder left. Don't write to it."""
    done = run(work, "export", *FLAGS)
    assert done.returncode == 0, done.stderr
    return work / "artifacts" / "snakes"


@pytest.fixture(scope="module")
def manifest(snakes: Path) -> dict[str, Any]:
    return json.loads((snakes / "manifest.json").read_text())


def test_the_manifest_tells_where_it_all_came_from(manifest: dict[str, Any]) -> None:
    model = manifest["model"]
    assert (model["name"], model["architecture"], model["weights"]) == (
        "snakes",
        "mobilenet_v2",
        "checkpoint",
    )
    assert (model["classes"], model["trained"]) == (5, True)
    assert manifest["labels"] == list(LABELS)
    assert manifest["preprocessing"] == Preprocessing.preset("inception", SIZE).to_json()
    assert (model["calibration"]["from"], model["calibration"]["count"]) == ("folder", 24)
    assert (model["goldens"]["from"], model["goldens"]["count"]) == ("folder", 20)
    assert model["calibration"]["digest"] != model["goldens"]["digest"]
    assert str(Path.home()) not in json.dumps(manifest)


def test_answers_are_those_of_an_independent_forward_pass(work: Path, snakes: Path) -> None:
    import torch

    saved = torch.load(work / "snakes.pt", weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in saved.items()}
    goldens = Goldens.load(snakes / "goldens.npz")
    assert goldens.images is not None
    tensor = normalize(goldens.images, Preprocessing.preset("inception", SIZE))
    with torch.inference_mode():
        expected = forward(state, torch.from_numpy(tensor)).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(
        goldens.fp32["logits"], expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_goldens_and_calibration_are_held_apart_and_spread_over_the_classes(
    work: Path, snakes: Path
) -> None:
    files = dataset.list_images(work / "photos").sample(44)
    goldens, calibration = files[:20], files[20:]
    assert not set(goldens) & set(calibration)
    for part in (goldens, calibration):
        counts = [sum(file.parent.name == label for file in part) for label in LABELS]
        assert max(counts) - min(counts) <= 1
    labels = Goldens.load(snakes / "goldens.npz").labels
    assert labels.tolist() == [LABELS.index(file.parent.name) for file in goldens]


def test_parity_holds_on_both_runners(work: Path, snakes: Path) -> None:
    runners = ("--runner", "ort-cpu", "--runner", "openvino", "--variant", "fp32")
    done = run(work, "parity", "--model", "snakes", *runners, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [cell["verdict"] for cell in json.loads(done.stdout)["cells"]] == ["pass", "pass"]


def test_the_same_again_makes_nothing(work: Path, snakes: Path) -> None:
    before = (snakes / "manifest.json").read_bytes()
    again = run(work, "export", *FLAGS)
    assert again.stderr.count("up to date") == 4, again.stderr
    assert (snakes / "manifest.json").read_bytes() == before


@pytest.mark.long
def test_int8_without_images_is_refused_and_synthetic_ones_are_said(work: Path) -> None:
    flags = ("--checkpoint", "snakes.pt", "--input-size", "64", "--workspace", "noise")
    done = run(work, "export", *flags)
    assert done.returncode == 2
    for word in ("--calibration DIR", "--variant fp32", "--calibration synthetic"):
        assert word in done.stderr
    made = run(work, "export", *flags, "--calibration", "synthetic", "--variant", "int8")
    assert made.returncode == 0, made.stderr
    assert "warning: int8: calibrated on noise" in made.stderr
    assert "warning: preprocessing imagenet" in made.stderr
    assert "int8 is calibrated on synthetic images" in made.stdout
    document = json.loads((work / "noise" / "mobilenet_v2" / "manifest.json").read_text())
    assert document["model"]["calibration"]["from"] == "synthetic"
    assert (document["model"]["classes"], document["labels"]) == (5, None)
