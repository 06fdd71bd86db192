"""What is spoiled: a small model's workspace with every result, its bundle, a user's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgepipe.runners.bundles import archive

NETS = """
from torch import nn

def classifier():
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
"""
CONFIG = """model = "tiny"
workspace = "artifacts"
[export]
batch = 1
formats = ["onnx", "openvino-ir"]
input-size = 32
opset = 20
[bench]
runners = ["ort-cpu"]
seconds = 0.2
rounds = 3
max-slowdown = "5%"
[parity]
samples = 16
[predict]
top = 2
decoders = 1
[package]
allow-failed-parity = true
output = "bundles"
release = 3
[gates.fp32]
min-sqnr-db = 60.0
[targets.box]
command = ["env", "{python}"]
emulated = true
timeout = 20.0
[runners.openvino]
python = "/usr/bin/python3"
"""
MODEL, LABELS = "tiny", "abc"
FORMATS = ("--format", "onnx", "--format", "openvino-ir")
ORT = ("--model", MODEL, "--runner", "ort-cpu")
COMMANDS = (
    *[("export", "nets:classifier", "--name", MODEL, "--checkpoint", "w.safetensors", *FORMATS)],
    ("parity", *ORT, "--explain"),
    ("parity", *ORT, "--runner", "openvino"),
    ("bench", *ORT, "--quick"),
    ("bench", *ORT, "--profile", "--variant", "fp32", "--quick"),
    ("evaluate", *ORT, "--data", "photos"),
    ("tune", *ORT, "--variant", "fp32", "--budget", "5"),
    ("compare", "--workspace", "artifacts", "--runner", "ort-cpu", "--quick", "--no-training"),
    ("package", "--model", MODEL, *FORMATS, "--allow-failed-parity"),
)
EXPORT = ("--labels", "labels.txt", "--calibration", "photos", "--input-size", "32")
EXPORT += ("--preprocessing", "imagenet", "--variant", "fp32", "--variant", "int8")


@dataclass(frozen=True)
class World:
    """Where everything is: ``folder`` has artifacts/tiny, photos/a.., w.safetensors and so on."""

    folder: Path
    members: dict[str, bytes]

    @property
    def workspace(self) -> Path:
        return self.folder / "artifacts" / MODEL


def make(folder: Path) -> World:
    """Make it with the command line itself, or take it from a folder where it was made."""
    if not list(folder.glob("bundles/*.gz")):
        _inputs(folder)
        env = {**os.environ, **homes(folder), "OMP_NUM_THREADS": "1"}
        for command in COMMANDS:
            more = EXPORT if command[0] == "export" else ()
            program = (sys.executable, "-m", "edgepipe.pipeline.cli", *command, *more)
            done = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=env)
            assert done.returncode in (0, 1, 6), done.stderr
    (bundle,) = folder.glob("bundles/*.gz")
    with bundle.open("rb") as file:
        reader = archive.Reader(file, bundle)
        members = {name: b"".join(reader.chunks()) for name, _ in reader}
    return World(folder, members)


def homes(folder: Path) -> dict[str, str]:
    """The variables that keep everything of the user's below a folder."""
    places = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_STATE_HOME": "state"}
    return {name: str(folder / "homes" / place) for name, place in places.items()}


def _inputs(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nets.py").write_text(NETS)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "edgepipe.toml.txt").write_text(CONFIG)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(NETS, names)
    state = names["classifier"]().state_dict()
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")
    about = {"architecture": "squeezenet", "width": "1.0", "labels": json.dumps(list(LABELS))}
    shape = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash"}
    about |= {"preprocessing": json.dumps(shape)}
    save_file(state, folder / "about.safetensors", about)
    random = np.random.default_rng(1)
    for label in LABELS:
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 256, (5, 5, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((40, 36))
            picture.save(folder / "photos" / label / f"{number}.png")
    picture = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
    (folder / "pictures").mkdir()
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff", "ppm"):
        picture.save(folder / "pictures" / f"x.{suffix}")
