"""A package of a third party, installed by pip and used through the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from edgepipe.exporters.base import ExportOptions
from edgepipe.pipeline.errors import StageError
from edgepipe.pipeline.stages.export import Prepared, run_exporter
from edgepipe.runners.testing import RunnerConformance

Run = Callable[..., CompletedProcess[str]]
SOURCE = Path(__file__).parent / "plugin"
DOCUMENTATION = Path(__file__).parents[1] / "docs" / "plugins.md"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the plug-in into."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(SOURCE, folder / "source")  # setuptools builds where it finds it
    target = folder / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    done = subprocess.run([*command, target, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def plugin(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in is on the import path of every process that a test starts."""
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


@pytest.mark.long
@pytest.mark.usefixtures("plugin")
def test_a_plug_in_exports_runs_is_judged_and_timed(workspace: Path, edgepipe: Run) -> None:
    flags = ("--workspace", workspace)
    done = edgepipe("export", "--format", "torchscript", *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert re.search("^export +up to date$", done.stderr, re.MULTILINE)
    manifest = json.loads(done.stdout)
    assert manifest["variants"]["fp32"]["torchscript"] == "fp32.ts"
    (stage,) = (stage for stage in manifest["stages"] if stage["name"] == "torchscript")
    assert stage["depends"]["plugin"] == "edgepipe-torchscript 1.0"

    listed = json.loads(edgepipe("runners", "--json").stdout)["runners"]
    (row,) = (row for row in listed if row["name"] == "torchscript")
    assert (row["status"], row["origin"]) == ("ok", "edgepipe-torchscript 1.0")
    assert row["formats"] == ["torchscript"]

    done = edgepipe("parity", "--runner", "torchscript", *flags, "--json")
    assert done.returncode == 0, done.stdout
    (cell,) = json.loads(done.stdout)["cells"]
    assert (cell["variant"], cell["runner"], cell["verdict"]) == ("fp32", "torchscript", "pass")
    assert cell["placement"] == {"CPU": 100}

    done = edgepipe("bench", "--quick", "--runner", "torchscript", *flags, "--json")
    assert done.returncode == 0, done.stdout
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["status"] == "ok"
    assert cell["latency_ms"]["p50"] > 0

    again = edgepipe("export", "--format", "torchscript", *flags)
    assert re.search("^torchscript +up to date$", again.stderr, re.MULTILINE)


@pytest.mark.usefixtures("plugin")
def test_the_plug_ins_own_tests_pass_in_which_it_proves_the_protocol(tmp_path: Path) -> None:
    shutil.copytree(SOURCE / "tests", tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    count = sum(name.startswith("test_") for name in dir(RunnerConformance))
    # None is skipped: an installed runner is also tried in a worker.
    assert re.search(rf"\b{count} passed in", done.stdout), done.stdout


@pytest.mark.usefixtures("plugin")
def test_a_plug_in_is_a_step_of_a_recipe(workspace: Path, edgepipe: Run) -> None:
    flags = ("--variant", "fp32", "--variant", "int8", "--workspace", workspace, "--json")
    done = edgepipe("export", "--recipe", "least-squares,margin", *flags)
    assert done.returncode == 0, done.stderr
    (stage,) = (one for one in json.loads(done.stdout)["stages"] if one["name"] == "int8")
    assert stage["depends"]["plugins"] == {"margin": "edgepipe-torchscript 1.0"}
    assert [step for step, _ in stage["result"]["gained"]] == ["min-max", "least-squares", "margin"]
    assert "margin -" in done.stderr  # wider steps, and nothing was clipped before


def test_a_step_that_is_not_there_is_named_with_those_that_are(edgepipe: Run) -> None:
    done = edgepipe("export", "--recipe", "least-squares,margin")
    assert (done.returncode, done.stdout) == (2, "")
    assert "recipe: no step 'margin'; known: accurate, minmax" in done.stderr


def test_the_documentation_shows_this_very_plug_in() -> None:
    text = DOCUMENTATION.read_text()
    for file in (
        "pyproject.toml",
        "edgepipe_torchscript.py",
        "edgepipe_margin.py",
        "tests/test_torchscript.py",
    ):
        assert (SOURCE / file).read_text().strip() in text, file


def test_without_the_plug_in_its_names_are_unknown(edgepipe: Run) -> None:
    done = edgepipe("export", "--format", "torchscript")
    assert (done.returncode, done.stdout) == (2, "")
    assert "export.formats: no 'torchscript'" in done.stderr


GOOD = """
class Exporter:
    name = format = "broken"
    suffixes = (".b",)
    def export(self, module, example, options): return {".b": b"beads"}
"""
# What an exporter may be like, and what is then said. The last is found when it runs.
BROKEN = {
    "missing library": ("import no_abacus_anywhere", "No module named 'no_abacus_anywhere'"),
    "exits": ("raise SystemExit('needs a licence')", "needs a licence"),
    "no class": ("", "no attribute 'Exporter'"),
    "other name": (GOOD.replace('"broken"', '"other"'), "its name is 'other'"),
    "other format": (
        GOOD.replace("name = format", 'format = "beads"; name'),
        "it writes 'beads', which has to be its name",
    ),
    "no files": (GOOD.replace('(".b",)', "()"), "it names no files"),
    "another's files": (GOOD.replace('".b"', '".pt2"'), "its files can't end in '.pt2'"),
    "a path": (GOOD.replace('".b"', '"/../../b"'), "its files can't end in '/../../b'"),
    "no method": (GOOD.replace("def export", "def run"), "export"),
    "raises": (
        GOOD.replace("return", "raise ValueError('no beads'); return"),
        "exporter broken (plugin 1.0) failed: ValueError: no beads",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize(("source", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_exporter_is_one_line(
    edgepipe: Run, tmp_path: Path, source: str, says: str
) -> None:
    (tmp_path / "plugin.py").write_text(source)
    about = tmp_path / "plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgepipe.exporters]\nbroken = plugin:Exporter\n")
    flags = ("--weights", "random", "--input-size", "32", "--variant", "fp32", "--no-simplify")
    done = edgepipe(
        "export", "--format", "broken", *flags, "--quiet", env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    assert says in line
    assert not list((tmp_path / "artifacts").glob("*/*.onnx")), "nothing is left half done"


@pytest.mark.parametrize(
    ("files", "says"), [({}, "gave no files, not .b"), ({".c": b""}, "gave .c, not .b")]
)
def test_an_exporter_that_gives_other_files_than_it_names_is_refused(
    files: dict[str, bytes], says: str
) -> None:
    class Exporter:
        name = format = "broken"
        suffixes = (".b",)

        def export(self, module: Any, example: Any, options: Any) -> dict[str, bytes]:
            return files

    module, options = torch.nn.ReLU(), ExportOptions(20, False)
    made = Prepared(module, module, (torch.zeros(1),), options, None)
    with pytest.raises(StageError, match=says):
        run_exporter(Exporter(), made, options)


def test_a_broken_exporter_that_is_not_asked_for_disturbs_nothing(
    edgepipe: Run, tmp_path: Path, workspace: Path
) -> None:
    about = tmp_path / "plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[edgepipe.exporters]\nbroken = not_there:Exporter\n")
    done = edgepipe("export", "--workspace", workspace, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0
    assert done.stderr.count("up to date") == 5
