"""Engines that a runner builds: built once, kept with the model, and read only if built here."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, parity
from edgepipe.pipeline.storage.workspace import ENGINES, Workspace
from edgepipe.runners.workers.scripted import Script, scripted

from ...made import NAME, Made

RUNNER = "ort-tensorrt"
TARGET = "1.31.1, TensorRT 10.16.1, Some GPU 9.0, CUDA 13.0"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "state"


@pytest.fixture
def made(tmp_path: Path, state: Path) -> Made:
    return Made(tmp_path / "my artifacts", variants=("fp32",))


def builder(made: Made, **changes: Any) -> dict[str, Script]:
    about: dict[str, Any] = {
        "devices": ("GPU",),
        "precisions": ("f32", "f16"),
        "builds_for": {"GPU": TARGET},
        "cache": {"model_1_sm90.engine": b"an engine"},
        "load_ms": 5000.0,
    }
    return {RUNNER: made.script(**{**about, **changes})}


def judged(made: Made, scripts: dict[str, Script], **flags: Any) -> None:
    with scripted(scripts):
        (row,) = parity(workspace=made.root, runners=(RUNNER,), **flags).cells
    assert row.status == "ok", row.reason


def kept(made: Made) -> dict[str, int]:
    """The archives, with the number of the file on the disk, which a new one changes."""
    return {path.name: path.stat().st_ino for path in (made.folder / ENGINES).glob("*")}


def test_an_engine_is_built_once_and_its_time_is_a_figure_of_bench(made: Made) -> None:
    with scripted(builder(made)):
        (row,) = bench(workspace=made.root, runners=(RUNNER,), quick=True).cells
        first = kept(made)
        again = bench(workspace=made.root, runners=(RUNNER,), quick=True)
    assert (row.status, row.build_ms, again.cells[0].build_ms) == ("ok", 5000.0, 5000.0)
    assert row.load_cached_ms is None
    judged(made, builder(made), threads=3)
    assert len(first) == 1
    assert kept(made) == first
    with zipfile.ZipFile(made.folder / ENGINES / next(iter(first))) as archive:
        about = json.loads(archive.read("about.json"))
        assert archive.read("model_1_sm90.engine") == b"an engine"
    assert about["built_for"] == TARGET
    assert about["files"] == {"fp32.onnx": made.digest("fp32")}
    assert Workspace(made.root, NAME).verified()


@pytest.mark.parametrize(
    "change",
    [
        {"scripts": {"builds_for": {"GPU": TARGET.replace("10.16.1", "10.17.0")}}},
        {"flags": {"precisions": ("f16",)}},
    ],
    ids=["another TensorRT", "precision"],
)
def test_another_device_version_or_setting_has_an_engine_of_its_own(
    made: Made, change: dict[str, Any]
) -> None:
    judged(made, builder(made))
    first = kept(made)
    judged(made, builder(made, **change.get("scripts", {})), **change.get("flags", {}))
    assert len(kept(made)) == 2
    assert first.items() < kept(made).items()


def damaged(made: Made, _state: Path) -> None:
    (path,) = (made.folder / ENGINES).glob("*")
    path.write_bytes(path.read_bytes()[:-20])


def replaced(made: Made, _state: Path) -> None:
    """By a whole archive that was not built here."""
    (path,) = (made.folder / ENGINES).glob("*")
    with zipfile.ZipFile(path) as archive:
        about = archive.read("about.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.json", about)
        archive.writestr("model_1_sm90.engine", b"something else")


def from_elsewhere(_made: Made, state: Path) -> None:
    shutil.rmtree(state)


@pytest.mark.parametrize("harm", [damaged, replaced, from_elsewhere])
def test_an_engine_that_was_not_built_here_as_it_is_is_built_anew(
    made: Made, state: Path, harm: Callable[[Made, Path], None]
) -> None:
    judged(made, builder(made))
    (name,) = kept(made)
    harm(made, state)
    judged(made, builder(made))
    assert list(kept(made)) == [name]
    with zipfile.ZipFile(made.folder / ENGINES / name) as archive:
        assert archive.read("model_1_sm90.engine") == b"an engine"


def test_engines_of_a_file_that_changed_go(made: Made) -> None:
    judged(made, builder(made))
    before = kept(made)
    made.edition = "2"
    made.write()
    judged(made, builder(made))
    assert len(kept(made)) == 1
    assert not before.keys() & kept(made).keys()


def test_a_runner_that_is_not_there_builds_nothing(made: Made) -> None:
    with scripted(builder(made, reason="no NVIDIA GPU found", builds_for={})):
        (row,) = parity(workspace=made.root, runners=(RUNNER,)).cells
    assert (row.status, row.reason) == ("unavailable", "no NVIDIA GPU found")
    assert kept(made) == {}
