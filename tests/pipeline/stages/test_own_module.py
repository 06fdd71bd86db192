"""A module of the user's own: several inputs and outputs, and preprocessing folded into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

NETS = """
import torch
from torch import nn


class Both(nn.Module):
    '''Words and a picture in; a dict with a tuple in it out.'''

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.mix = nn.Linear(24, 4)

    def forward(self, tokens, picture):
        words = self.embed(tokens).mean(1)
        seen = torch.relu(self.conv(picture)).mean((2, 3))
        scores = self.mix(torch.cat([words, seen], 1))
        return {"scores": scores, "parts": (words, seen), "scaled": scores * torch.ones(4)}


def build():
    return Both()


class Heads(nn.Module):
    '''A dict and an optional tensor in; two heads with equal keys, and one that is off, out.'''

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 4)

    def forward(self, batch, mask=None, bias=None):
        scores = self.mix(batch["left"] - 2 * batch["right"])
        scores = scores if bias is None else scores + bias
        return [{"score": scores, "aux": mask}, {"score": scores.sigmoid()}]


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def classifier(classes=5):
    layers = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
"""
RUNNERS = ("--runner", "ort-cpu", "--runner", "openvino", "--runner", "torch")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "nets.py").write_text(NETS)
    (folder / "photos").mkdir()
    random = np.random.default_rng(1)
    for number in range(60):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
        coarse.resize((60, 40)).save(folder / "photos" / f"{number}.png")
    return folder


def run(folder: Path, *arguments: str) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=dict(os.environ))


def manifest(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "artifacts" / name / "manifest.json").read_text())


@pytest.fixture(scope="module")
def both(work: Path) -> Path:
    inputs = ("--input", "tokens:1x16:int64:0..99", "--input", "picture:1x3x32x32")
    flags = ("--calibration", "synthetic", "--variant", "fp32", "--variant", "int8")
    done = run(work, "export", "nets:build", *inputs, *flags)
    assert done.returncode == 0, done.stderr
    assert "warning: nets:build is code, and runs" in done.stderr
    assert "warning: int8: calibrated on noise" in done.stderr
    return work


def test_the_manifest_says_what_goes_in_and_comes_out(both: Path) -> None:
    found = manifest(both, "build")
    model = found["model"]
    assert (model["architecture"], model["weights"], model["classes"]) == (
        "nets:build",
        "own",
        None,
    )
    assert model["inputs"] == [
        {"name": "tokens", "dtype": "int64", "shape": [16]},
        {"name": "picture", "dtype": "float32", "shape": [3, 32, 32]},
    ]
    assert {output["name"]: output["shape"] for output in model["outputs"]} == {
        "scores": [4],
        "parts0": [8],
        "parts1": [16],
        "scaled": [4],
    }
    assert found["preprocessing"] == {}


def test_every_output_is_held_against_torch_on_every_runner(both: Path) -> None:
    done = run(both, "parity", "--model", "build", *RUNNERS, "--variant", "fp32", "--json")
    cells = json.loads(done.stdout)["cells"]
    assert [cell["verdict"] for cell in cells] == ["pass"] * 3, done.stdout
    assert all(set(cell["outputs"]) == {"scores", "parts0", "parts1", "scaled"} for cell in cells)
    # No classes, so nothing to agree on.
    assert all(cell["top1_agreement"] is None for cell in cells)


@pytest.mark.long
def test_inputs_go_by_their_names_into_dicts_and_past_optional_ones(work: Path) -> None:
    inputs = ("bias:1x4", "batch.right:1x8", "batch.left:1x8")
    flags = [part for one in inputs for part in ("--input", one)]
    open_batch = ("--batch", "dynamic", "--format", "openvino-ir")
    done = run(work, "export", "nets:Heads", *flags, "--variant", "fp32", *open_batch)
    assert done.returncode == 0, done.stderr
    model = manifest(work, "Heads")["model"]
    assert [one["name"] for one in model["inputs"]] == ["bias", "batch.right", "batch.left"]
    assert [one["name"] for one in model["outputs"]] == ["output0_score", "output1_score"]
    judged = run(work, "parity", "--model", "Heads", *RUNNERS, "--json")
    assert [cell["verdict"] for cell in json.loads(judged.stdout)["cells"]] == ["pass"] * 3
    with np.load(work / "artifacts" / "Heads" / "goldens.npz") as recorded:
        bias, left, right = (
            recorded[f"input.{name}"] for name in ("bias", "batch.left", "batch.right")
        )
        apart = recorded["fp32.output0_score"] - bias
    # Linear in left - 2 right, and in nothing else of what went in.
    mixed = np.hstack([left - 2 * right, np.ones((len(left), 1))])
    residual = np.linalg.lstsq(mixed, apart, rcond=None)[1]
    assert residual.max() < 1e-6


def test_bench_times_it_and_what_needs_classes_refuses(both: Path) -> None:
    ort = ("--model", "build", "--runner", "ort-cpu")
    done = run(both, "bench", "--quick", *ort, "--json")
    cells = json.loads(done.stdout)["cells"]
    assert [(cell["variant"], cell["status"]) for cell in cells] == [("fp32", "ok"), ("int8", "ok")]
    for command in (("evaluate", *ort), ("predict", "photos", *ort)):
        refused = run(both, *command)
        assert refused.returncode == 2, refused.stderr
        assert "no image classifier" in refused.stderr


@pytest.fixture(scope="module")
def twins(work: Path) -> Path:
    """A classifier that takes BGR, once as it is and once with preprocessing folded in."""
    (work / "edgepipe.toml").write_text('[export]\nchannels = "bgr"\n')
    flags = ("--input-size", "32", "--preprocessing", "imagenet", "--calibration", "photos")
    variants = ("--variant", "fp32", "--variant", "int8")
    for name, more in (("plain", ()), ("folded", ("--fold-preprocessing",))):
        done = run(work, "export", "nets:classifier", "--name", name, *flags, *variants, *more)
        assert done.returncode == 0, done.stderr
    return work


def test_a_folded_model_takes_frames(twins: Path) -> None:
    found = manifest(twins, "folded")
    assert found["preprocessing"]["folded"] is True
    assert found["model"]["inputs"] == [{"name": "input", "dtype": "uint8", "shape": [32, 32, 3]}]
    for variant in ("fp32", "int8"):
        graph = onnx.load(twins / "artifacts" / "folded" / f"{variant}.onnx").graph
        (frame,) = graph.input
        assert frame.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [size.dim_value for size in frame.type.tensor_type.shape.dim] == [1, 32, 32, 3]


def test_the_folded_goldens_are_the_unfolded_models_answers(twins: Path) -> None:
    folder = twins / "artifacts"
    with (
        np.load(folder / "plain" / "goldens.npz") as plain,
        np.load(folder / "folded" / "goldens.npz") as folded,
    ):
        assert plain["images"].dtype == folded["images"].dtype == np.uint8
        np.testing.assert_array_equal(plain["images"], folded["images"])
        np.testing.assert_array_equal(plain["fp32.logits"], folded["fp32.logits"])


def test_folding_changes_no_answer_on_any_runner(twins: Path) -> None:
    done = run(twins, "parity", "--model", "folded", *RUNNERS, "--json")
    cells = json.loads(done.stdout)["cells"]
    # What int8 makes of random weights depends on the CPU; that it runs at all does not.
    assert {cell["verdict"] for cell in cells if cell["variant"] == "fp32"} == {"pass"}, done.stdout
    assert [cell["status"] for cell in cells] == ["ok"] * 5


def test_predict_says_the_same_of_both(twins: Path) -> None:
    answers = []
    for name in ("plain", "folded"):
        done = run(twins, "predict", "photos/0.png", "photos/1.png", "--model", name, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["predictions"]
        answers.append([[guess["probability"] for guess in one["top"]] for one in found])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_changed_code_is_exported_again(twins: Path) -> None:
    flags = ("--name", "plain", "--input-size", "32", "--preprocessing", "imagenet", "--variant")
    again = run(twins, "export", "nets:classifier", *flags, "fp32", "--calibration", "photos")
    assert again.stderr.count("up to date") == 2, again.stderr
    code = (twins / "nets.py").read_text()
    (twins / "nets.py").write_text(code.replace("nn.ReLU()]", "nn.ReLU6()]"))
    changed = run(twins, "export", "nets:classifier", *flags, "fp32", "--calibration", "photos")
    assert "export    nets:classifier" in changed.stderr


@pytest.mark.long
def test_other_arguments_are_another_export(work: Path) -> None:
    (work / "edgepipe.toml").write_text('[export]\nargs = ["classes=3"]\n')
    flags = ("--input-size", "32", "--calibration", "photos", "--variant", "fp32", "--name", "few")
    made = run(work, "export", "nets:classifier", *flags)
    assert made.returncode == 0, made.stderr
    model = manifest(work, "few")["model"]
    assert (model["arguments"], model["classes"]) == ({"classes": 3}, 3)
    same = run(work, "export", "nets:classifier", *flags, "--arg", "classes=3")
    assert same.stderr.count("up to date") == 2, same.stderr
    (work / "edgepipe.toml").unlink()
    other = run(work, "export", "nets:classifier", *flags, "--arg", "classes=4")
    assert manifest(work, "few")["model"]["classes"] == 4, other.stderr
    before = manifest(work, "few")
    wrong = run(work, "export", "nets:classifier", *flags, "--arg", "labels=4")
    assert wrong.returncode == 3
    assert (
        "nets:classifier: got an unexpected keyword argument 'labels'; it takes classes=5"
        in (wrong.stderr.splitlines()[-1])
    )
    assert manifest(work, "few") == before


def test_several_inputs_with_an_open_batch_by_the_older_exporter(work: Path) -> None:
    inputs = ("--input", "tokens:Nx16:int64:0..99", "--input", "picture:Nx3x32x32")
    older = ("--exporter", "onnx-torchscript", "--opset", "17", "--batch", "dynamic")
    flags = (*older, "--variant", "fp32", "--format", "openvino-ir", "--name", "open")
    done = run(work, "export", "nets:build", *inputs, *flags)
    assert done.returncode == 0, done.stderr
    judged = run(work, "parity", "--model", "open", *RUNNERS, "--json")
    assert [cell["verdict"] for cell in json.loads(judged.stdout)["cells"]] == ["pass"] * 3


def test_what_no_exporter_can_take_is_one_line(work: Path) -> None:
    done = run(work, "export", "nets:Branches", "--input", "x:1x4", "--variant", "fp32")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgepipe: nets:Branches can't be exported by torch.export: ")
    fails = run(work, "export", "nets:build", "--input", "x:1x4", "--variant", "fp32")
    assert fails.returncode == 3
    assert "nets:build fails for torch.float32 [1, 4]: TypeError" in fails.stderr
