"""The packages for a GPU, chosen by what its driver says; no driver is asked here."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from edgepipe.runners.base import RunnerUnavailable
from edgepipe.runners.environments import environments, gpu, installing
from edgepipe.runners.machine import cuda

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
NEW, OLD = ({"name": name, "capability": one} for name, one in (("New", "9.0"), ("Old", "7.0")))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(driver: str | None, *devices: dict[str, str]) -> None:
        monkeypatch.setattr(cuda, "driver_version", lambda: driver)
        monkeypatch.setattr(cuda, "devices", lambda: list(devices))

    return put


@pytest.mark.parametrize(
    ("driver", "devices", "extra", "says"),
    [
        (None, (), "cuda", "no NVIDIA driver here; taking packages for CUDA 13"),
        ("13.0", (NEW,), "cuda", ""),
        ("14.1", (NEW,), "cuda", ""),
        ("12.8", (NEW,), "cuda12", "the driver is for CUDA 12.8"),
        ("12.0", (), "cuda12", "the driver is for CUDA 12.0"),
        ("13.0", (NEW, OLD), "cuda12", "Old is older than Turing"),
    ],
)
def test_the_driver_decides(
    machine: Any, driver: str | None, devices: tuple[Any, ...], extra: str, says: str
) -> None:
    machine(driver, *devices)
    said: list[str] = []
    assert gpu.extra_of("ort-cuda", said.append) == extra
    assert gpu.extra_of("ort-tensorrt") == extra.replace("cuda", "tensorrt")
    assert [says in line for line in said] == ([True] if says else [])
    assert gpu.extra_of("ort-openvino") == "ort-openvino"


def test_a_driver_that_is_too_old_is_a_reason_before_anything_is_made(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine("11.8", NEW)
    with pytest.raises(RunnerUnavailable, match=r"is for CUDA 11\.8.*release 525 or newer"):
        environments.create("ort-cuda")
    assert not list((tmp_path / "edgepipe" / "envs").glob("ort-cuda@*"))


@pytest.fixture
def pip_of_nvidia() -> list[str]:
    """What pip prints of a wheel whose source package only points elsewhere, and gives up."""
    printed = """WARNING: Location '/mirror' is ignored: it is neither a file nor a directory.
  × python setup.py egg_info did not run successfully.
  ╰─> [28 lines of output]
error: metadata-generation-failed

× Encountered error while generating package metadata.
╰─> tensorrt-cu13-libs

note: This is an issue with the package mentioned above, not pip."""
    return [sys.executable, "-c", f"print({printed!r}); raise SystemExit(1)"]


def test_what_pip_can_not_build_is_named(pip_of_nvidia: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunnerUnavailable) as caught:
        installing.run(pip_of_nvidia, tmp_path, "pip can't install ort-tensorrt")
    said = "pip can't install ort-tensorrt: metadata-generation-failed of tensorrt-cu13-libs"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("extra", "version", "fits"),
    [
        ("cuda", "1.31.1", True),
        ("cuda", "1.26.0", False),
        ("cuda12", "1.26.0", True),
        ("tensorrt12", "1.27.0", False),
        ("cuda12", None, True),
    ],
)
def test_what_was_locked_for_another_cuda_is_let_go(
    extra: str, version: str | None, fits: bool
) -> None:
    locked = {"onnxruntime-gpu": {"version": version}} if version else {}
    assert gpu.still_fits(extra, locked) is fits


def test_every_extra_is_the_projects_and_takes_the_release_it_is_for() -> None:
    extras = PROJECT["optional-dependencies"]
    for of_cuda in gpu.EXTRAS.values():
        assert set(of_cuda.values()) <= set(extras)
    for name, inside, outside in (("cuda", "1.31.1", "1.26.0"), ("cuda12", "1.26.0", "1.27.0")):
        (wheel,) = (one for one in map(Requirement, extras[name]) if one.name == cuda.GPU_WHEEL)
        assert (inside in wheel.specifier, outside in wheel.specifier) == (True, False)
        assert wheel.extras == {"cuda", "cudnn"}
    for name in ("tensorrt", "tensorrt12"):
        (libraries,) = (one for one in map(Requirement, extras[name]) if "tensorrt" in one.name)
        assert ("10.16.1.11" in libraries.specifier, "11.4.0" in libraries.specifier) == (
            True,
            False,
        )
