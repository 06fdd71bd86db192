"""The second reference in a workspace, a bundle and an explanation, with a kernel that is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline.cells import arithmetic
from edgepipe.pipeline.storage.goldens import Goldens, preprocessing_of
from edgepipe.pipeline.storage.manifest import Artifact, Manifest
from edgepipe.runners.machine.files import sha256_file

Run = Callable[..., CompletedProcess[str]]

# ONNX Runtime's int8 average pooling counts no padding that ceil_mode adds, on every CPU.
NETS = """
import torch
from torch import nn


def ceil():
    torch.manual_seed(0)
    layers = []
    for a, b in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6()]
    pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=True)
    module = nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(32 * 81, 10))
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, 3, 64, 64))
    return module.eval()
"""
# Its sums can't saturate, so that what fails is the kernel.
VARIANT = "int8-avx2"


def run(folder: Path, *arguments: str) -> CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module's workspace. Don't write to it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "nets.py").write_text(NETS)
    flags = ("--name", "ceil", "--input-size", "64", "--calibration", "synthetic")
    done = run(folder, "export", "nets:ceil", *flags, "--variant", "fp32", "--variant", VARIANT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copied(work: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(work, tmp_path / "work"))


def manifest(folder: Path) -> Manifest:
    path = folder / "artifacts" / "ceil" / "manifest.json"
    return Manifest.from_json(path.read_text(), path)


def rehash(folder: Path, **changes: Any) -> None:
    """Make the manifest agree with what is in the folder."""
    found, place = manifest(folder), folder / "artifacts" / "ceil"
    artifacts = {
        name: Artifact(sha256_file(place / name), (place / name).stat().st_size)
        for name in found.artifacts
        if (place / name).exists()
    }
    text = replace(found, artifacts=artifacts, **changes).to_json()
    (place / "manifest.json").write_text(text)


def test_it_is_what_the_file_itself_says(work: Path) -> None:
    folder = work / "artifacts" / "ceil"
    found = arithmetic.of_workspace(folder, manifest(work), VARIANT)
    assert found
    model, goldens = folder / f"{VARIANT}.onnx", folder / "goldens.npz"
    assert (found.model, found.goldens) == (sha256_file(model), sha256_file(goldens))
    assert {name: len(array) for name, array in found.outputs.items()} == {
        name: len(array) for name, array in Goldens.load(goldens).fp32.items()
    }
    again = arithmetic.compute(model, goldens, preprocessing_of(manifest(work)))
    assert again.to_bytes() == (folder / f"{VARIANT}.goldens.npz").read_bytes()
    assert arithmetic.of_workspace(folder, manifest(work), "fp32") is None


def test_a_wrong_kernel_fails_and_is_named(work: Path) -> None:
    flags = ("--model", "ceil", "--runner", "ort-cpu", "--explain", "--json")
    done = run(work, "parity", *flags)
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(done.stdout)
    fp32, int8 = document["cells"]
    assert fp32["verdict"] == "pass"
    assert (int8["verdict"], int8["fault"]) == ("fail", "kernels")
    assert int8["sqnr_db"] > int8["gate"]["min_sqnr_db"], "the whole cell's gate can't see it"
    assert int8["file_sqnr_db"] >= int8["kernels_limit_db"] > int8["kernels_sqnr_db"]
    (explanation,) = document["explanations"]
    assert (explanation["variant"], explanation["step"]) == (VARIANT, "runner")
    assert "pool" in explanation["layer"]
    verdicts = {step["name"]: step["verdict"] for step in explanation["steps"]}
    assert verdicts == dict.fromkeys(("exported", "simplified", "quantized"), "pass") | {
        "runner": "fail"
    }


def test_what_fails_is_not_packaged_and_evaluate_names_the_fault(copied: Path) -> None:
    run(copied, "parity", "--model", "ceil", "--runner", "ort-cpu")
    done = run(copied, "package", "--model", "ceil")
    assert done.returncode == 1
    assert f"{VARIANT} fails on ort-cpu (local): the kernels: SQNR" in done.stderr
    images = copied / "images" / "0"
    images.mkdir(parents=True)
    (images.parent / "1").mkdir()
    from PIL import Image

    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images.parent / str(number % 2) / f"{number}.png")
    flags = ("--model", "ceil", "--data", "images", "--runner", "ort-cpu", "--json")
    document = json.loads(run(copied, "evaluate", *flags).stdout)
    fp32, int8 = document["cells"]
    assert (fp32["file_sqnr_db"], fp32["fault"]) == (None, None)
    judged = json.loads((copied / "artifacts" / "ceil" / "parity.json").read_text())["cells"][1]
    for figure in ("file_sqnr_db", "kernels_sqnr_db", "kernels_limit_db", "fault"):
        assert int8[figure] == judged[figure]
    assert any("parity finds kernels at fault" in note for note in document["notes"])


def test_a_workspace_without_one_says_how_to_make_it(copied: Path) -> None:
    folder = copied / "artifacts" / "ceil"
    (folder / f"{VARIANT}.goldens.npz").unlink()
    rehash(copied)
    done = run(copied, "parity", "--model", "ceil", "--runner", "ort-cpu")
    assert done.returncode == 3
    assert "run `edgepipe export`" in done.stderr
    assert done.stderr.count("\n") == 1
    only = ("--runner", "ort-cpu", "--variant", "fp32")
    assert run(copied, "parity", "--model", "ceil", *only).returncode == 0, "fp32 needs none"


@pytest.mark.parametrize("damage", ["another model", "no archive"])
def test_one_that_is_of_another_file_is_refused(copied: Path, damage: str) -> None:
    path = copied / "artifacts" / "ceil" / f"{VARIANT}.goldens.npz"
    other = replace(arithmetic.Arithmetic.load(path), model="0" * 64)
    path.write_bytes(other.to_bytes() if damage == "another model" else b"PK nothing")
    rehash(copied)
    done = run(copied, "parity", "--model", "ceil", "--runner", "ort-cpu")
    assert done.returncode == 3
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr
