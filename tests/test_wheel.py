"""What the wheel holds: one top-level name, the data it needs, and nothing else."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def members(request: pytest.FixtureRequest) -> list[str]:
    wheel = request.config.getoption("--wheel")
    if wheel is None:
        pytest.skip("needs a built wheel: nox -s bare builds it and passes --wheel")
    return zipfile.ZipFile(Path(wheel)).namelist()


def test_the_only_top_level_is_edgepipe(members: list[str]) -> None:
    tops = {name.split("/")[0] for name in members}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgepipe"}


@pytest.mark.parametrize(
    "name",
    [
        "edgepipe/exporters/data/digits.npz",
        "edgepipe/exporters/data/mobilenet_v2-digits.safetensors",
        "edgepipe/exporters/zoo/mobilenet_v2.py",
        "edgepipe/pipeline/speed/bench.py",
        "edgepipe/pipeline/report/text/terminal.py",
        "edgepipe/pipeline/report/page/templates/report.html.j2",
        "edgepipe/runners/workers/worker.py",
    ],
)
def test_what_a_run_needs_is_in_it(members: list[str], name: str) -> None:
    assert name in members


def test_every_source_file_is_in_it(members: list[str]) -> None:
    root = Path(__file__).parents[1]
    for package in ("pipeline", "exporters", "runners"):
        for path in (root / package).rglob("*.py"):
            assert f"edgepipe/{path.relative_to(root)}" in members


def test_the_licence_is_in_it(members: list[str]) -> None:
    assert any(name.endswith("/LICENSE") for name in members)


def test_every_folder_of_the_packages_is_listed_and_no_other() -> None:
    """setuptools can't find them by itself: the folders are called other than the packages."""
    root = Path(__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(("edgepipe", *file.parent.relative_to(root).parts))
        for package in ("pipeline", "exporters", "runners")
        for file in (root / package).rglob("__init__.py")
    }
    assert set(listed) == there | {"edgepipe.exporters.data"}
