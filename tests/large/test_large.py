"""A model of 2.5 GB from a file to a verified bundle, and from a module; `nox -s large`.

What each step takes at most is that of the command and its workers together, where pages that two
of them share count half for each (PSS).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from . import wide

MOST_OF_THE_FILE = 2.5
FREE_GB = 30
pytestmark = [
    pytest.mark.skipif(
        psutil.virtual_memory().total < 15e9, reason="takes 7 GB of memory beside others"
    ),
    pytest.mark.skipif(
        shutil.disk_usage(Path.cwd()).free < FREE_GB * 1e9, reason=f"takes {FREE_GB} GB of disk"
    ),
]


class Steps:
    """Runs commands in a folder and notes what each one takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, code: int = 0) -> str:
        """What it printed on stdout; its peak is held against the file."""
        started = time.monotonic()
        argv = [sys.executable, "-m", "edgepipe.pipeline.cli", *command]
        environment = os.environ | {"TMPDIR": str(self.folder), "PYTHONPATH": str(self.folder)}
        with subprocess.Popen(
            argv,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            watch = Watch(process.pid)
            out, errors = process.communicate()
            watch.done()
        seconds = time.monotonic() - started
        whole, largest = (f"{peak / self.size:.2f}" for peak in (watch.whole, watch.largest))
        print(f"{command[0]:<9} {seconds:5.0f} s, {whole} of the file, a process {largest}")
        assert process.returncode == code, errors
        # bench has a session for each cell and one for its control, which take turns.
        peak = watch.largest if command[0] == "bench" else watch.whole
        assert peak <= MOST_OF_THE_FILE * self.size
        return out

    @property
    def size(self) -> int:
        return (self.folder / "wide.weights").stat().st_size


class Watch:
    """The largest PSS of a process and all below it, together and of one, in bytes, sampled."""

    def __init__(self, pid: int) -> None:
        self.whole, self.largest = 0, 0
        self._root, self._over = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def done(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            try:
                every = (self._root, *self._root.children(recursive=True))
            except psutil.Error:
                continue
            found = [_pss(one.pid) for one in every]
            self.whole, self.largest = max(self.whole, sum(found)), max(self.largest, *found)


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if "Pss:" in line), 0)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("large")
    wide.write(folder / "wide.onnx")
    yield Steps(folder)
    shutil.rmtree(folder)


def test_a_file_becomes_a_verified_bundle(steps: Steps) -> None:
    said = (
        "--calibration",
        "synthetic",
        "--calibration-images",
        "16",
        "--preprocessing",
        "inception",
    )
    made = json.loads(steps.run("import", "wide.onnx", *said, "--json"))
    assert made["model"]["simplified"], made["model"]["not_simplified_because"]
    assert set(made["variants"]) == {"fp32", "int8", "int8-avx2"}
    assert made["artifacts"]["fp32.data"]["size"] > 2.5e9
    runners = ("--runner", "ort-cpu", "--runner", "openvino")
    judged = json.loads(steps.run("parity", *runners, "--json"))
    assert {cell["verdict"] for cell in judged["cells"] if cell["variant"] == "fp32"} == {"pass"}
    steps.run("bench", "--variant", "fp32", "--quick", *runners)
    steps.run("package", "--variant", "fp32", "--layout", "triton")
    (config,) = steps.folder.glob("bundles/*/*/config.pbtxt")
    assert sorted(one.name for one in (config.parent / "1").iterdir()) == [
        "fp32.data",
        "model.onnx",
    ]
    packaged = json.loads(steps.run("package", "--json"))
    shutil.rmtree(steps.folder / "artifacts")
    verified = json.loads(steps.run("verify", packaged["path"], "--runner", "ort-cpu", "--json"))
    assert verified["verdict"] == "pass"


def test_a_module_becomes_the_same(steps: Steps) -> None:
    (steps.folder / "wide_module.py").write_text(Path(wide.__file__).read_text())
    said = ("--input-size", "64", "--preprocessing", "inception", "--variant", "fp32")
    made = json.loads(steps.run("export", "wide_module:Wide", *said, "--json"))
    assert made["artifacts"]["fp32.data"]["size"] > 2.5e9
    runners = ("--runner", "ort-cpu", "--runner", "openvino", "--runner", "torch")
    judged = json.loads(steps.run("parity", "--model", "Wide", *runners, "--json"))
    assert {cell["verdict"] for cell in judged["cells"]} == {"pass"}
