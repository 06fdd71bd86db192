"""Fixtures that several parts of the suite share. No mocks: the real export, real workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from edgepipe.runners.machine import host

collect_ignore = ["plugin"]  # a package of its own: see test_plugin.py

Run = Callable[..., subprocess.CompletedProcess[str]]


def once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills in one process of the run, for all of them."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the default export (digits, 224 pixels, all variants). Don't write to it."""

    def make(root: Path) -> None:
        program = [sys.executable, "-m", "edgepipe.pipeline.cli"]
        command = [*program, "export", "--workspace", str(root)]
        subprocess.run(command, check=True, capture_output=True)

    return once("exported", tmp_path_factory, make)


@pytest.fixture
def workspace(exported: Path, tmp_path: Path) -> Path:
    """A copy of ``exported`` that a test may break."""
    return Path(shutil.copytree(exported, tmp_path / "artifacts"))


@pytest.fixture
def edgepipe(tmp_path: Path) -> Run:
    """Run the command line in an empty folder: ``edgepipe("bench", "--quick")``."""

    def run(
        *arguments: str | Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        settings: dict[str, Any] = {"cwd": tmp_path, "timeout": 300, **options}
        return subprocess.run(
            [sys.executable, "-m", "edgepipe.pipeline.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **cache, **(env or {})},
            **settings,
        )

    return run


@pytest.fixture(scope="session")
def measured(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``exported`` with parity and a quick bench on ort-cpu. Don't write to it.

    On a CPU whose int8 kernels saturate, ``int8`` fails parity, rightly. There the verdict of a
    machine that has VNNI is put beside it, so that the workspace can be packaged on any CPU.
    """

    def make(root: Path) -> None:
        shutil.copytree(exported, root)
        for command in (("parity",), ("bench", "--quick")):
            flags = ("--runner", "ort-cpu", "--workspace", str(root))
            program = [sys.executable, "-m", "edgepipe.pipeline.cli"]
            done = subprocess.run([*program, *command, *flags], capture_output=True, text=True)
            saturated = command == ("parity",) and host.saturates(host.facts())
            assert done.returncode == (1 if saturated else 0), done.stdout + done.stderr
            if saturated:
                add_exact_machine(root / "mobilenet_v2" / "parity.json")

    return once("measured", tmp_path_factory, make)


def add_exact_machine(path: Path) -> None:
    document = json.loads(path.read_text())
    document["hosts"]["exact"] = {"machine": "x86_64", "cpu_flags": ["avx2", "avx512_vnni"]}
    (cell,) = (cell for cell in document["cells"] if cell["variant"] == "int8")
    passed = {"target": "exact", "verdict": "pass", "reason": None, "fault": None}
    document["cells"].append({**cell, **passed})
    path.write_text(json.dumps(document))


@pytest.fixture(scope="session")
def bundle(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``measured``, not signed. Don't write to it."""
    from edgepipe.pipeline import package

    return package(workspace=measured, output=tmp_path_factory.mktemp("bundle")).path


@pytest.fixture(scope="session")
def base_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with edgepipe's wheel and onnxruntime, as on an edge box.

    No torch, onnx or openvino. Don't write to it.
    """
    folder = tmp_path_factory.mktemp("base")
    source = Path(__file__).parents[1]
    copied = folder / "source"  # setuptools leaves its build folder where it works
    files = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "exporters", "runners")
    copied.mkdir()
    for name in files:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, copied / name)
    python = folder / "environment" / "bin" / "python"
    for command in (
        (sys.executable, "-m", "venv", str(folder / "environment")),
        (str(python), "-m", "pip", "install", "--quiet", f"{copied}[cpu]"),
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return python


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cuts", action="store_true", help="test_deploy.py: every step, three cuts each"
    )
    parser.addoption("--wheel", default=None, help="a built wheel, for tests/test_wheel.py")
