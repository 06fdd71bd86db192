"""train: it learns, goes on after kill -9 in the same bits, and export takes what it writes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from edgepipe.pipeline import train, write_plot
from edgepipe.pipeline.errors import InputError, UsageError
from edgepipe.pipeline.report.text import confusion
from edgepipe.pipeline.storage.dataset import Dataset
from edgepipe.pipeline.training.augmentation import augment
from edgepipe.pipeline.training.train import split

Run = Callable[..., CompletedProcess[str]]
# Without batch normalization, whose statistics take more steps than there is time for here.
NAME = "squeezenet1_1"
MODEL: dict[str, Any] = {"input_size": 32, "batch": 8, "threads": 1, "learning_rate": 1e-3}
FLAGS = ("--input-size", "32", "--batch", "8", "--threads", "1", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in colour: 16 noisy pictures each, of different sizes."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    random = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(16):
            pixels = random.integers(0, 60, (40 + number, 50, 3), np.uint8)
            pixels[..., channel] += 180
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "colours.safetensors"
    result = train(NAME, data=photos, output=output, epochs=8, **MODEL)
    assert write_plot(result) == output.with_suffix(".svg")
    assert result.top1 == 100
    return output


def test_the_checkpoint_says_what_export_needs(trained: Path) -> None:
    with safe_open(trained, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == NAME
    assert json.loads(metadata["labels"]) == ["blue", "green", "red"]
    assert json.loads(metadata["preprocessing"])["size"] == 32
    assert metadata["input_size"] == "32"
    assert "width" not in metadata


def test_the_width_is_written_down_and_gone_on_with(tmp_path: Path, photos: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    settings = {**MODEL, "epochs": 1}
    train("mobilenet_v1", data=photos, output=first, width=0.25, **settings)
    train(data=photos, output=second, init=first, **settings)
    for path in (first, second):
        with safe_open(path, framework="numpy") as file:
            assert file.metadata()["width"] == "0.25"
            assert file.metadata()["architecture"] == "mobilenet_v1"


def test_the_result_stands_beside_it_and_adds_up(trained: Path, photos: Path) -> None:
    result = json.loads(trained.with_suffix(".json").read_text())
    confusion = np.array(result["confusion"])
    assert confusion.sum() == result["held_out"] == 9
    assert result["held_out"] + result["images"] == len(list(photos.rglob("*.png")))
    assert 100 * np.trace(confusion) / confusion.sum() == result["top1"]
    assert result["epochs"][result["best"] - 1]["held_out_loss"] == min(
        epoch["held_out_loss"] for epoch in result["epochs"]
    )
    assert ">taken for<" in trained.with_suffix(".svg").read_text()
    assert not trained.with_suffix(".state").exists()


@pytest.mark.long
def test_export_takes_the_checkpoint_and_answers_as_it_was_trained(
    edgepipe: Run, tmp_path: Path, trained: Path, photos: Path
) -> None:
    made = edgepipe("export", "--checkpoint", trained, "--variant", "fp32", "--json")
    assert made.returncode == 0, made.stderr
    manifest = json.loads(made.stdout)
    assert manifest["labels"] == ["blue", "green", "red"]
    model = manifest["model"]["name"]
    judged = edgepipe(
        *("evaluate", "--data", photos, "--model", model, "--runner", "ort-cpu", "--json")
    )
    (cell,) = json.loads(judged.stdout)["cells"]
    assert cell["top1"] > 0.95


def command(photos: Path, output: Path, *flags: str) -> list[str]:
    return [
        *(sys.executable, "-m", "edgepipe.pipeline.cli", "train", NAME),
        *(
            "--data",
            str(photos),
            "--output",
            str(output),
            "--epochs",
            "8",
            *FLAGS,
            "--quiet",
            *flags,
        ),
    ]


@pytest.mark.long
def test_a_killed_training_goes_on_and_ends_in_the_same_bits(
    tmp_path: Path, photos: Path, trained: Path
) -> None:
    output = tmp_path / "killed.safetensors"
    state = output.with_suffix(".state")
    process = subprocess.Popen(command(photos, output))
    deadline = time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    done = subprocess.run(command(photos, output, "--json"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_after"] >= 1
    assert not state.exists()
    whole, resumed = load_file(trained), load_file(output)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert output.read_bytes() == trained.read_bytes()


class Stop(Exception):
    pass


class Interrupting:
    def say(self, text: str) -> None:
        if text.startswith("epoch 1"):
            raise Stop

    def step(self, done: int, total: int, text: str) -> None:
        pass


def test_batch_normalization_keeps_up_with_a_few_steps(tmp_path: Path, photos: Path) -> None:
    """What epochs of two steps have learnt shows in the answers, after an interrupt as well."""
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    settings: dict[str, Any] = {
        "data": photos,
        "width": 0.25,
        "input_size": 64,
        "batch": 16,
        "augment": "none",
        "epochs": 4,
        "threads": 1,
    }
    result = train("mobilenet_v1", output=whole, **settings)
    guessing = np.log(3)
    assert result.epochs[result.best - 1].held_out_loss < 0.9 * guessing
    with pytest.raises(Stop):
        train("mobilenet_v1", output=resumed, progress=Interrupting(), **settings)
    assert train("mobilenet_v1", output=resumed, **settings).resumed_after == 1
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_training_that_led_nowhere_says_so(tmp_path: Path, photos: Path, trained: Path) -> None:
    output = tmp_path / "model.safetensors"
    settings = {**MODEL, "learning_rate": 1e-9}
    nowhere = train(NAME, data=photos, output=output, epochs=1, **settings)
    assert "nothing was learnt" in confusion.text(nowhere)
    learnt = train(NAME, data=photos, output=output, epochs=1, init=trained, **settings)
    assert "nothing was learnt" not in confusion.text(learnt)


@pytest.mark.long
def test_the_command_it_ends_with_works(
    edgepipe: Run, tmp_path: Path, trained: Path, photos: Path
) -> None:
    settings = {**MODEL, "learning_rate": 1e-9}
    output = tmp_path / "my colours.safetensors"
    result = train(NAME, data=photos, output=output, epochs=1, init=trained, **settings)
    name, *command = shlex.split(confusion.text(result).splitlines()[-1])
    assert name == "edgepipe"
    made = edgepipe(*command, "--variant", "int8")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "artifacts" / "colours" / "int8.onnx").exists()


def test_weights_of_another_architecture_are_refused(
    edgepipe: Run, tmp_path: Path, trained: Path, photos: Path
) -> None:
    for command in (
        ("export", "mobilenet_v2", "--checkpoint", trained, "--calibration", photos),
        ("train", "mobilenet_v2", "--init", trained, "--data", photos),
    ):
        done = edgepipe(*command)
        assert done.returncode == 3
        assert f"{trained}: weights of {NAME}, not of mobilenet_v2" in done.stderr


def test_a_state_of_other_settings_is_not_gone_on_with(tmp_path: Path, photos: Path) -> None:
    output = tmp_path / "model.safetensors"

    def run(**changed: Any) -> Any:
        settings = {**MODEL, "epochs": 2, **changed}
        return train(NAME, data=photos, output=output, **settings)

    with pytest.raises(Stop):
        run(progress=Interrupting())
    with pytest.raises(UsageError, match="another batch; --restart"):
        run(batch=4)
    assert run(batch=4, restart=True).resumed_after == 0


def test_a_damaged_state_is_named(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "model.state").write_bytes(b"not a state")
    with pytest.raises(InputError, match=r"model\.state: not the state of a training"):
        train(NAME, data=photos, output=tmp_path / "model.safetensors", **MODEL)


def test_other_classes_get_a_head_of_their_own(tmp_path: Path, photos: Path, trained: Path) -> None:
    two = tmp_path / "two"
    two.mkdir()
    for name in ("red", "green"):
        (two / name).symlink_to(photos / name)
    output = tmp_path / "two.safetensors"
    settings = {**MODEL, "learning_rate": 1e-6}
    result = train(data=two, init=trained, output=output, epochs=1, **settings)
    assert (result.architecture, result.labels) == (NAME, ("green", "red"))
    before, after = load_file(trained), load_file(output)
    assert after["classifier.1.weight"].shape == (2, 512, 1, 1)
    # What was learnt is where it goes on from: one step of this size hardly moves it.
    assert torch.allclose(after["features.0.weight"], before["features.0.weight"], atol=1e-4)


def test_it_stops_when_nothing_gets_better(tmp_path: Path, photos: Path) -> None:
    result = train(
        NAME,
        data=photos,
        output=tmp_path / "model.safetensors",
        epochs=30,
        patience=1,
        **{**MODEL, "learning_rate": 0.5},
    )
    assert result.stopped_early
    assert len(result.epochs) < 30
    assert result.best == len(result.epochs) - 1


def test_each_class_is_held_out_in_proportion() -> None:
    labels = np.repeat(np.arange(3), (10, 20, 2))
    images = Dataset("made", labels, lambda row: np.full((1, 1), row, np.uint8), "")
    learnt, held_out = split(images, 0.2, seed=0)
    assert np.bincount(held_out.labels).tolist() == [2, 4, 1]
    seen = [
        (int(part.image(row)[0, 0]), int(part.labels[row]))
        for part in (learnt, held_out)
        for row in range(len(part))
    ]
    assert sorted(seen) == list(enumerate(labels))
    again, other = (split(images, 0.2, seed)[1] for seed in (0, 1))
    first, second, third = (
        [int(part.image(row)[0, 0]) for row in range(len(part))]
        for part in (held_out, again, other)
    )
    assert first == second != third


@pytest.mark.parametrize("kind", ["photos", "shapes"])
def test_only_photos_are_mirrored(kind: str) -> None:
    left = torch.full((64, 3, 32, 32), -1.0)
    left[..., :8] = 1.0
    moved = augment(left, kind, torch.full((3, 1, 1), -1.0), torch.Generator().manual_seed(0))
    brighter_left = moved[..., :16].mean((1, 2, 3)) > moved[..., 16:].mean((1, 2, 3))
    assert moved.shape == left.shape
    assert brighter_left.float().mean() == (
        1.0 if kind == "shapes" else pytest.approx(0.5, abs=0.2)
    )


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (lambda folder: (folder / "a").mkdir(), "no images"),
        (lambda folder: save(folder / "1.png"), "in no class folders"),
        (lambda folder: (save(folder / "a/1.png"), save(folder / "a/2.png")), "one class only"),
        (
            lambda folder: [save(folder / name) for name in ("a/1.png", "a/2.png", "b/1.png")],
            "b: one image",
        ),
    ],
    ids=["empty", "flat", "one class", "one image"],
)
def test_images_that_nothing_can_be_learnt_from(
    tmp_path: Path, arrange: Callable[[Path], Any], words: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    arrange(folder)
    with pytest.raises(InputError, match=words):
        train(NAME, data=folder, output=tmp_path / "model.safetensors", **MODEL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def save(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_without_data_it_says_what_to_give(edgepipe: Run) -> None:
    done = edgepipe("train")
    assert done.returncode == 2
    assert "--data DIR" in done.stderr
