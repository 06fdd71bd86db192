"""quantize: other recipes, a search with all that follows from it, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.numerics.paired import Drop
from edgepipe.pipeline.quantization.search.quantize import within
from edgepipe.pipeline.quantization.search.search_result import Candidate, Found, Speed

NET = '''
import torch
from torch import nn


def net():
    """Depthwise and pointwise convolutions of channels that differ much in size."""
    torch.manual_seed(0)

    def conv(inputs, outputs, side, groups=1):
        made = nn.Conv2d(inputs, outputs, side, padding=side // 2, groups=groups)
        with torch.no_grad():
            made.weight *= torch.exp(torch.randn(outputs, 1, 1, 1))
        return nn.Sequential(made, nn.ReLU6())

    layers = [conv(3, 16, 3)]
    for _ in range(3):
        layers += [conv(16, 16, 3, 16), conv(16, 16, 1)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(*layers, *head).eval()
'''
FLAGS = ("--calibration", "synthetic", "--input-size", "32", "--calibration-images", "32")


def run(
    folder: Path, *arguments: str, code: int = 0, runners: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", *arguments]
    env = os.environ | ({"EDGEPIPE_BENCH_RUNNERS": runners} if runners else {})
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def exported_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module's workspace. Don't write to it."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "nets.py").write_text(NET)
    run(folder, "export", "nets:net", *FLAGS)
    return folder


@pytest.fixture(scope="module")
def searched(exported_net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a search. Don't write to it."""
    folder = Path(shutil.copytree(exported_net, tmp_path_factory.mktemp("searched") / "net"))
    run(folder, "quantize", "--search", "--budget", "30s")
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "artifacts" / "net" / "manifest.json").read_text())


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "artifacts" / "net" / "search.json").read_text())


@pytest.mark.long
def test_what_it_finds_is_nearer_on_images_that_it_never_saw(searched: Path) -> None:
    found = {row["variant"]: row for row in result(searched)["found"]}
    others = [row for name, row in found.items() if name not in ("int8", "int8-avx2")]
    assert others
    for base in ("int8", "int8-avx2"):
        exact = base == "int8-avx2"
        mine = [row for row in others if row["candidate"]["exact_pairs"] == exact]
        assert max(row["sqnr_db"] for row in mine) > found[base]["sqnr_db"] + 1
        # One for each runner of each CPU class.
        shown = [*mine, found[base]]
        runners = {speed["runner"] for speed in found[base]["speeds"]}
        assert {"ort-cpu", "openvino"} <= runners
        assert sorted(name for row in shown for name in row["recommended"]) == sorted(runners)


@pytest.mark.long
def test_what_it_finds_are_variants_that_other_commands_take(searched: Path) -> None:
    names = [name for name in manifest(searched)["variants"] if "-float" in name]
    assert names
    variant = ("--variant", names[-1])
    done = run(searched, "parity", *variant, "--runner", "ort-cpu", "--samples", "16", "--json")
    (cell,) = json.loads(done.stdout)["cells"]
    assert (cell["variant"], cell["verdict"]) == (names[-1], "pass")


@pytest.mark.long
def test_it_goes_on_where_it_was(searched: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(searched, tmp_path / "net"))
    before = result(folder)
    run(folder, "quantize", "--search", "--budget", "1s", runners="ort-cpu")
    again = result(folder)
    # A second is enough for what was tried before, to the digit of the time that it took.
    assert again["trials"] == before["trials"]
    assert again["ended"] == before["ended"]
    run(folder, "quantize", "--search", "--budget", "1s", "--no-resume", runners="ort-cpu")
    assert len(result(folder)["trials"]) < len(before["trials"])


@pytest.mark.long
def test_an_export_of_the_same_keeps_them_and_one_of_another_drops_them(
    searched: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(searched, tmp_path / "net"))
    found = set(manifest(folder)["variants"])
    run(folder, "export", "nets:net", *FLAGS)
    assert set(manifest(folder)["variants"]) == found
    run(folder, "export", "nets:net", *FLAGS, "--calibration-images", "16")
    assert set(manifest(folder)["variants"]) == {"fp32", "int8", "int8-avx2"}
    assert not list((folder / "artifacts" / "net").glob("*-float*"))


@pytest.mark.long
def test_the_report_shows_the_front(searched: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(searched, tmp_path / "net"))
    run(folder, "report")
    page = (folder / "artifacts" / "net" / "report.html").read_text()
    assert "What a search for int8 found" in page
    assert "Nearness against time: " in page
    for row in result(folder)["found"]:
        assert row["variant"] in page


def test_another_recipe_makes_int8_anew(exported_net: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported_net, tmp_path / "net"))
    before = manifest(folder)
    run(folder, "quantize", "--recipe", "minmax")
    after = manifest(folder)
    recipes = {one["name"]: one["result"].get("recipe") for one in after["stages"]}
    assert recipes["int8"] == recipes["int8-avx2"] == ["min-max"]
    for name, artifact in before["artifacts"].items():
        assert (artifact == after["artifacts"][name]) == (not name.startswith("int8"))


def row(variant: str, ratio: float) -> Found:
    candidate = Candidate(("min-max",), (), exact_pairs="avx2" in variant)
    speeds = (Speed("ort-cpu", ratio), Speed("openvino", 2 - ratio))
    return Found(variant, candidate, (), 30.0, 30.0, 1.0, speeds, recommended=("ort-cpu",))


def test_with_a_limit_the_fastest_that_surely_holds_it_is_recommended() -> None:
    rows = [row("int8", 0.9), row("int8-float1", 1.0), row("int8-float2", 1.1)]
    rows += [row("int8-avx2", 1.0)]
    drops = {
        "int8": Drop(0.2, (-0.5, 0.9), 0.6, 3, 2),
        "int8-float1": Drop(0.1, (-0.2, 0.4), 0.7, 2, 1),
        "int8-float2": Drop(0.0, (-0.1, 0.1), 1.0, 1, 1),
        "int8-avx2": Drop(1.0, (0.2, 1.8), 0.02, 9, 1),
    }
    found, problems = within(rows, drops, 0.5)
    assert {one.variant: one.recommended for one in found} == {
        "int8": (),
        "int8-float1": ("ort-cpu",),
        "int8-float2": ("openvino",),
        "int8-avx2": (),
    }
    assert problems == ("int8-avx2: none surely loses 0.5 points or less",)
    assert [one.drop for one in found] == [0.2, 0.1, 0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--budget", "5m"), 2, "--budget is for a search: add --search"),
        (("--search", "--budget", "5"), 2, 'not a time such as "90s", "10m" or "1h"'),
        (("--search", "--max-drop", "1"), 2, "--max-drop: labelled images are needed: add --data"),
        (("--recipe", "bias-correction"), 2, "bias-correction needs ranges, which come first"),
        (("--recipe", "nearest"), 2, "recipe: no step 'nearest'; known: accurate, minmax"),
        (("--model", "other"), 3, "nothing exported yet"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_changes(
    exported_net: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = manifest(exported_net)
    done = run(exported_net, "quantize", *arguments, code=code)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert manifest(exported_net) == before


def test_a_model_without_int8_can_not_be_searched(exported_net: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported_net, tmp_path / "net"))
    run(folder, "export", "nets:net", "--input-size", "32", "--variant", "fp32", *FLAGS[:2])
    done = run(folder, "quantize", "--search", code=2)
    assert "run `edgepipe export` with an int8 variant first" in done.stderr
