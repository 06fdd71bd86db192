"""Runners by name: the built-in ones, plug-ins from real distributions, and broken plug-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.runners import registry
from edgepipe.runners.base import RunnerUnavailable, SessionError, Settings
from edgepipe.runners.targets import Target
from edgepipe.runners.workers.launch import Worker

Install = Callable[..., None]

BUILT_IN = ["ort-cpu", "openvino", "ort-openvino", "ort-cuda", "ort-tensorrt", "torch"]
HERE = ["ort-cpu", "openvino", "torch"]  # the others need a device or an environment

DOUBLING = """
import numpy as np
from edgepipe.runners.base import Placement, TensorSpec

class DoublingSession:
    inputs = (TensorSpec("input", "float32", (None, 2)),)
    outputs = (TensorSpec("twice", "float32", (None, 2)),)
    placement = Placement("abacus", "f32", 1, {"beads": 2})

    def run(self, feeds):
        print("a library that prints to stdout")
        return {"twice": 2 * feeds["input"]}

    def close(self):
        pass

class Doubling:
    name = "doubling"
    formats = ("beads", "onnx")
    precisions = ("f32",)

    def version(self):
        return "7"

    def devices(self):
        return ("abacus",)

    def unavailable(self):
        return None

    def load(self, model, settings):
        if model.read_bytes() != b"beads":
            raise ValueError("not a model of beads")
        return DoublingSession()
"""

BROKEN = {
    "library missing": ("import not_installed_anywhere", "not_installed_anywhere"),
    "syntax error": ("class Runner(", "SyntaxError"),
    "raises": ("raise OSError('libfoo.so.3: no such file')", "libfoo.so.3: no such file"),
    "raises without a message": ("raise RuntimeError", "RuntimeError"),
    "several lines": ("raise RuntimeError('first' + chr(10) + 'second')", "first"),
    "exits": ("raise SystemExit('needs a newer Python')", "needs a newer Python"),
    "class missing": ("Other = object", "Runner"),
    "constructor raises": (
        "class Runner:\n    def __init__(self): raise ValueError('no licence')",
        "no licence",
    ),
    "constructor wants arguments": (
        "class Runner:\n    def __init__(self, device): pass",
        "device",
    ),
    "other name": (DOUBLING.replace("Doubling:", "Runner:"), "its name is 'doubling'"),
    "no method": ("class Runner:\n    name = 'broken'", "it has no formats, precisions, version"),
    "no list": (
        DOUBLING.replace("Doubling:", "Runner:").replace('("f32",)', '"f32"'),
        "breaks the protocol",
    ),
    "no method but a value": (
        DOUBLING.replace("Doubling:", "Runner:").replace("doubling", "broken")
        + "    version = '7'",
        "its version can't be called",
    ),
}


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Lay a distribution with one runner into ``tmp_path``, as pip would."""

    def install(name: str, source: str, value: str | None = None) -> None:
        module = f"plugin_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        entry = f"{name} = {value or f'{module}:Runner'}"
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry}\n")

    return install


def python_path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def with_plugins(folder: Path, *lines: str) -> Any:
    """Run ``lines`` where the plug-ins of ``folder`` are installed; the last is an expression."""
    *statements, result = lines
    code = [
        "import json, sys",
        "from edgepipe.runners import registry",
        "from edgepipe.runners.base import RunnerUnavailable",
        "def reason(call, name):",
        "    try: call(name)",
        "    except RunnerUnavailable as error: return str(error)",
        *statements,
        f"print(json.dumps({result}))",
    ]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(code)],
        env=os.environ | {"PYTHONPATH": python_path(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def target_with_plugins(folder: Path) -> Target:
    return Target(command=("env", f"PYTHONPATH={python_path(folder)}", "{python}"))


def test_the_built_in_runners_come_first_and_in_order() -> None:
    assert registry.names()[: len(BUILT_IN)] == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_runner_is_what_its_entry_says(name: str) -> None:
    runner = registry.get(name)
    assert runner.name == name
    assert runner.formats == registry.formats(name)
    assert name not in HERE or runner.unavailable() is None
    assert runner.version()


def test_listing_runners_imports_none_of_them(tmp_path: Path) -> None:
    loaded = with_plugins(
        tmp_path,
        "[registry.formats(name) for name in registry.names()]",
        "sorted({'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules))",
    )
    assert loaded == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("ort_cpu", "ort-cpu"), ("ortcpu", "ort-cpu"), ("open-vino", "openvino"), ("toch", "torch")],
)
@pytest.mark.parametrize("ask", [registry.get, registry.formats])
def test_an_unknown_name_is_answered_with_the_nearest(
    ask: Callable[[str], Any], name: str, near: str
) -> None:
    with pytest.raises(RunnerUnavailable) as caught:
        ask(name)
    assert repr(name) in str(caught.value)
    assert f"did you mean {near}?" in str(caught.value)


@pytest.mark.parametrize("name", ["", "zzz", "tensorflow-lite"])
def test_a_name_like_no_other_is_answered_with_all_of_them(name: str) -> None:
    with pytest.raises(RunnerUnavailable) as caught:
        registry.get(name)
    assert all(known in str(caught.value) for known in BUILT_IN)


def test_an_unknown_runner_is_the_same_error_from_a_worker() -> None:
    with (
        Worker(Target().argv()) as worker,
        pytest.raises(RunnerUnavailable, match="did you mean torch"),
    ):
        worker.load("toch", {"fp32.pt2": b""}, Settings(1))


def test_a_plug_in_is_listed_and_found(tmp_path: Path, install: Install) -> None:
    install("doubling", DOUBLING, "plugin_doubling:Doubling")
    assert with_plugins(
        tmp_path,
        "runner = registry.get('doubling')",
        "[registry.names(), registry.formats('doubling'), runner.name, runner.version()]",
    ) == [[*BUILT_IN, "doubling"], ["beads", "onnx"], "doubling", "7"]


def test_a_plug_in_is_the_nearest_name_too(tmp_path: Path, install: Install) -> None:
    install("doubling", DOUBLING, "plugin_doubling:Doubling")
    assert "did you mean doubling?" in with_plugins(tmp_path, "reason(registry.get, 'dubling')")


def test_a_plug_in_runs_in_a_worker_like_any_other_runner(tmp_path: Path, install: Install) -> None:
    install("doubling", DOUBLING, "plugin_doubling:Doubling")
    with Worker(target_with_plugins(tmp_path).argv()) as worker:
        loaded = worker.load("doubling", {"model.beads": b"beads"}, Settings(1))
        outputs = worker.run({"input": np.array([[1, 2]], np.float32)}).arrays
        with pytest.raises(SessionError, match="not a model of beads"):
            worker.load("doubling", {"model.beads": b"pearls"}, Settings(1))
    assert loaded.placement.shares() == {"beads": 100.0}
    assert loaded.runner_version == "7"
    np.testing.assert_array_equal(outputs["twice"], [[2, 4]])


@pytest.mark.parametrize(("source", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plug_in_is_unavailable_with_its_reason_in_one_line(
    tmp_path: Path, install: Install, source: str, expected: str
) -> None:
    install("broken", source)
    reasons = with_plugins(
        tmp_path, "[reason(ask, 'broken') for ask in (registry.get, registry.formats)]"
    )
    for reason in reasons:
        assert "broken" in reason
        assert expected in reason
        assert "\n" not in reason


def test_a_plug_in_whose_module_is_gone_is_unavailable(tmp_path: Path, install: Install) -> None:
    install("gone", "", "plugin_that_was_deleted:Runner")
    assert "plugin_that_was_deleted" in with_plugins(tmp_path, "reason(registry.get, 'gone')")


@pytest.mark.parametrize("value", ["plugin_vague", "plugin_vague:"])
def test_a_plug_in_that_names_no_class_is_unavailable(
    tmp_path: Path, install: Install, value: str
) -> None:
    install("vague", "class Runner: ...", value)
    assert with_plugins(tmp_path, "reason(registry.get, 'vague')")


def test_a_plug_in_that_does_not_say_its_formats_is_unavailable(
    tmp_path: Path, install: Install
) -> None:
    install("mute", "class Runner:\n    name = 'mute'")
    reason = with_plugins(tmp_path, "reason(registry.formats, 'mute')")
    assert "mute" in reason
    assert "formats" in reason


def test_broken_plug_ins_leave_the_others_working(tmp_path: Path, install: Install) -> None:
    install("broken", "import not_installed_anywhere")
    install("wrong", "class Runner(")
    install("doubling", DOUBLING, "plugin_doubling:Doubling")
    names, found = with_plugins(
        tmp_path,
        "working = ['ort-cpu', 'openvino', 'doubling']",
        "[registry.names(), [registry.get(name).name for name in working]]",
    )
    assert names == [*BUILT_IN, "broken", "doubling", "wrong"]
    assert found == ["ort-cpu", "openvino", "doubling"]


def test_a_broken_plug_in_does_not_end_the_worker(tmp_path: Path, install: Install) -> None:
    install("broken", "import not_installed_anywhere")
    install("doubling", DOUBLING, "plugin_doubling:Doubling")
    with Worker(target_with_plugins(tmp_path).argv()) as worker:
        with pytest.raises(RunnerUnavailable, match="not_installed_anywhere"):
            worker.load("broken", {"model.beads": b""}, Settings(1))
        worker.load("doubling", {"model.beads": b"beads"}, Settings(1))


def test_a_plug_in_cannot_take_a_built_in_runners_name(tmp_path: Path, install: Install) -> None:
    install("ort-cpu", DOUBLING, "plugin_ort_cpu:Doubling")
    names, kind = with_plugins(
        tmp_path, "[registry.names(), type(registry.get('ort-cpu')).__name__]"
    )
    assert names == BUILT_IN
    assert kind == "OrtCpu"
