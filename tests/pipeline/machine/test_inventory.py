"""`edgepipe runners`: every runner with its facts, or the reason and the remedy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Run = Callable[..., CompletedProcess[str]]

GOOD = """
class Runner:
    name = "good"
    formats = ("onnx",)
    precisions = ("f32", "f16")
    def version(self): return "7"
    def unavailable(self): return None
    def devices(self): return ("Abacus 0", "Abacus 1")
    def load(self, model, settings): raise NotImplementedError
"""
# What a plug-in may be like instead, and what its row then says: status and a part of the reason.
BROKEN = {
    "absent": ("raise ImportError('libabacus.so.3: cannot open')", "unavailable", "libabacus.so.3"),
    "aborts": ("import os; os.abort()", "failed", "SIGABRT"),
    "exits": ("import os; os._exit(7)", "failed", "exit status 7"),
    "mute": (GOOD.replace("def devices", "def other"), "unavailable", "it has no devices"),
    "misnamed": (GOOD, "unavailable", "its name is 'good'"),
    "wordy": (
        GOOD.replace('("onnx",)', '"onnx"'),
        "unavailable",
        "formats are 'onnx', not a tuple",
    ),
    "stuck": (
        GOOD.replace("return None", "return 'no abacus is plugged in'"),
        "unavailable",
        "no abacus is plugged in",
    ),
    "raising": (GOOD.replace('return "7"', "raise OSError('EIO')"), "failed", "OSError: EIO"),
    "odd": (GOOD.replace('return "7"', "return object()"), "failed", "not JSON serializable"),
}


def install(folder: Path, name: str, source: str) -> None:
    """Lay a distribution with one runner into a folder, as pip would."""
    module = f"plugin_{name}"
    (folder / f"{module}.py").write_text(source.replace("good", name, int(name != "misnamed")))
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[edgepipe.runners]\n{name} = {module}:Runner\n")


def rows(done: CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    return {row["name"]: row for row in document["runners"]}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path of every edgepipe that a test starts."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return folder


def test_the_built_in_runners_are_listed_with_their_facts(edgepipe: Run) -> None:
    found = rows(edgepipe("runners", "--json"))
    for name, format_ in (("ort-cpu", "onnx"), ("openvino", "onnx"), ("torch", "pt2")):
        row = found[name]
        assert (row["status"], row["target"], row["reason"]) == ("ok", "local", None)
        assert row["version"]
        assert "CPU" in row["devices"]
        assert format_ in row["formats"]
        assert row["precisions"][0] == "f32"


def test_a_runner_that_a_target_is_not_for_has_a_reason_and_nothing_to_install(
    edgepipe: Run,
) -> None:
    found = rows(edgepipe("runners", "--target", "isa-avx2", "--json"))
    for name in ("ort-cpu", "torch"):
        assert (found[name]["status"], found[name]["install"]) == ("unavailable", None)
        assert "can't compute as AVX2" in found[name]["reason"]


def test_a_missing_library_is_a_reason_and_the_command_that_installs_it(
    edgepipe: Run, plugins: Path
) -> None:
    (plugins / "openvino.py").write_text("raise ImportError('No module named openvino')")
    row = rows(edgepipe("runners", "--json"))["openvino"]
    assert row["status"] == "unavailable"
    assert "No module named openvino" in row["reason"]
    assert row["install"] == 'pip install "edgepipe[openvino]"'
    assert row["formats"], "what it would take is known all the same"
    table = edgepipe("runners").stdout
    assert table.count('pip install "edgepipe[openvino]"') == 1


def test_broken_plug_ins_are_listed_with_their_reasons_and_break_nothing(
    edgepipe: Run, plugins: Path
) -> None:
    install(plugins, "good", GOOD)
    for name, (source, _, _) in BROKEN.items():
        install(plugins, name, source)
    found = rows(edgepipe("runners", "--json"))
    good = found["good"]
    assert (good["status"], good["version"], good["origin"]) == ("ok", "7", "plugin_good 1.0")
    assert good["devices"] == ["Abacus 0", "Abacus 1"]
    assert found["ort-cpu"]["status"] == "ok"
    for name, (_, status, reason) in BROKEN.items():
        assert found[name]["status"] == status, found[name]
        assert reason in found[name]["reason"]
        assert "\n" not in found[name]["reason"]


def test_a_plug_in_that_kills_its_process_costs_its_own_cells_only(
    edgepipe: Run, plugins: Path, workspace: Path
) -> None:
    install(plugins, "aborts", "import os; os.abort()")
    flags = ("--variant", "fp32", "--workspace", workspace, "--json")
    done = edgepipe("parity", "--runner", "ort-cpu", "--runner", "aborts", *flags)
    assert done.returncode == 5
    ours, broken = json.loads(done.stdout)["cells"]
    assert (ours["runner"], ours["verdict"]) == ("ort-cpu", "pass")
    assert (broken["runner"], broken["status"]) == ("aborts", "unavailable")
    assert "SIGABRT" in broken["reason"]


def test_a_runner_is_asked_in_its_own_interpreter(edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        f'[runners.torch]\npython = "/no/such/python"\n'
        f"[runners.ort-cpu]\npython = {json.dumps(sys.executable)}\n"
    )
    found = rows(edgepipe("runners", "--json"))
    assert "can't start /no/such/python" in found["torch"]["reason"]
    assert found["torch"]["install"] is None, "installing it here would not help"
    assert (found["ort-cpu"]["status"], found["ort-cpu"]["python"]) == ("ok", sys.executable)


def test_a_target_that_cannot_be_reached_is_tried_once(edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        '[targets.gone]\ncommand = ["sh", "-c", "echo >> tried; exit 9"]\n'
    )
    found = rows(edgepipe("runners", "--target", "gone", "--json"))
    assert {row["status"] for row in found.values()} == {"failed"}
    assert all("exit status 9" in row["reason"] for row in found.values())
    assert (tmp_path / "tried").read_text() == "\n"


def test_an_unknown_target_is_a_usage_error(edgepipe: Run) -> None:
    done = edgepipe("runners", "--target", "hasvell")
    assert done.returncode == 2
    assert done.stderr == "edgepipe: targets: no 'hasvell'; did you mean haswell?\n"
