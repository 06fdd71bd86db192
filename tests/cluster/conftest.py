"""A small network of 32 pixels, and images for it; what a single run says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

IMAGES = 20_000
NET = '''
import torch
from torch import nn


def net():
    """A few convolutions: a millisecond an image."""
    torch.manual_seed(0)

    def conv(inputs, outputs, groups=1, side=3, stride=1):
        made = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups)
        return nn.Sequential(made, nn.ReLU6())

    layers = [conv(3, 16)]
    for _ in range(3):
        layers += [conv(16, 16, 16), conv(16, 16, side=1)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(*layers, *head).eval()
'''
SHARE = ("--runner", "ort-cpu", "--json")
Command = Callable[..., list[str]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgepipe.pipeline.cli", *arguments]


def run(folder: Path, *arguments: str, code: int = 0, **options: Any) -> Any:
    """What a command prints as JSON, in the folder."""
    options = {"timeout": 900, "capture_output": True, "text": True, **options}
    done = subprocess.run(command(*arguments), cwd=folder, **options)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done


def members(parent: int) -> list[psutil.Process]:
    """The workers that a command has started."""
    module = "edgepipe.pipeline.cells.cluster.member"
    children = psutil.Process(parent).children()
    return [one for one in children if module in one.cmdline()]


def same(found: Any, alone: Any, but: Sequence[str] = ("cluster", "measured")) -> None:
    """Assert that two results are equal to the last bit, figures and verdicts and reasons."""
    for key in alone:
        if key not in but:
            assert found[key] == alone[key], key


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workspace "artifacts" and the images in "photos"."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "nets.py").write_text(NET)
    flags = ("--calibration", "synthetic", "--input-size", "32", "--calibration-images", "32")
    subprocess.run(command("export", "nets:net", *flags), cwd=folder, check=True)
    random = np.random.default_rng(0)
    for label in range(10):
        (folder / "photos" / str(label)).mkdir(parents=True)
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        path = folder / "photos" / str(number % 10) / f"{number:05}.png"
        Image.fromarray(pixels).save(path, compress_level=1)
    return folder


@pytest.fixture(scope="session")
def alone(world: Path) -> Any:
    """What evaluate says of all images without a cluster."""
    return run(world, "evaluate", "--data", "photos", "--threads", "1", *SHARE)


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The address of a scheduler of Dask's own."""
    place = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    told = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(place))
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *told],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (place.exists() and place.read_text()):
            assert process.poll() is None
            os.sched_yield()
        yield json.loads(place.read_text())["address"]
    finally:
        process.kill()
        process.wait()
