"""A board that isn't there: the environment made for real, and what a user does with it.

`nox -s arm64` runs this: the commands of docs/raspberry-pi.md one after the other, on a model of
64 pixels, and then what they left behind is looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.runners.environments import environments

from ..pipeline.shipping.test_ssh import SSHD, Box, box, server  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs" / "raspberry-pi.md"
TOOLS = ("qemu-aarch64", "apt-get", "dpkg-deb")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)} (Debian: qemu-user)"
)


@dataclass(frozen=True)
class Board:
    """A folder with ``artifacts`` and ``bundles``, and what each command of the page printed."""

    folder: Path
    said: dict[str, CompletedProcess[str]]

    def run(self, *words: str, **env: str) -> CompletedProcess[str]:
        """A command in a shell's place: ``edgepipe`` is the one of these sources."""
        command = [sys.executable, "-m", "edgepipe.pipeline.cli", *words]
        return self._run(command, env)

    def emulated(self, cpu: str, *words: str) -> CompletedProcess[str]:
        """The environment's own ``edgepipe``, on an emulated CPU."""
        (folder,) = (self.folder / "cache" / "edgepipe" / "envs").glob("arm64@*")
        return self._run([str(folder / "bin" / "edgepipe"), *words], {"QEMU_CPU": cpu})

    @property
    def python(self) -> Path:
        (folder,) = (self.folder / "cache" / "edgepipe" / "envs").glob("arm64@*")
        return folder / "bin" / "python"

    @property
    def bundle(self) -> Path:
        (path,) = (self.folder / "bundles").glob("*.tar.gz")
        return path

    def _run(self, command: list[str], env: dict[str, str]) -> CompletedProcess[str]:
        places = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=os.environ | places | env
        )


def shown() -> list[str]:
    """The commands of the page."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """The page as it stands, but for the size of the model."""
    made = Board(tmp_path_factory.mktemp("board"), {})
    bin_ = made.folder / "bin"
    bin_.mkdir()
    (bin_ / "edgepipe").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m edgepipe.pipeline.cli "$@"\n'
    )
    (bin_ / "edgepipe").chmod(0o755)
    (made.folder / "edgepipe.toml").write_text("[export]\ninput-size = 64\n")
    path = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    for line in shown():
        made.said[line] = made._run(["bash", "-c", line], path)
        codes = {0, 1, 6} if re.search(r"\b(parity|verify)\b", line) else {0}
        assert made.said[line].returncode in codes, (line, made.said[line])
    return made


def test_what_is_installed_is_locked_whole_and_listed(board: Board) -> None:
    (found,) = json.loads(board.run("env", "list", "--json").stdout)["environments"]
    assert (found["runner"], found["state"]) == ("arm64", "ready")
    lock = found["packages"]
    assert {"onnxruntime", "openvino", "numpy", "python3:arm64", "libc6:arm64"} <= lock.keys()
    assert all(re.fullmatch("[0-9a-f]{64}", about["sha256"]) for about in lock.values())
    listed = board.run("runners", "--target", "cortex-a72", "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)["runners"]}
    for name, package in (("ort-cpu", "onnxruntime"), ("openvino", "openvino")):
        assert rows[name]["status"] == "ok", rows[name]["reason"]
        assert rows[name]["version"] == lock[package]["version"]
    assert rows["torch"]["status"] == "unavailable"
    assert f"onnxruntime {lock['onnxruntime']['version']}" in board.run("doctor").stdout


def test_answers_are_judged_and_the_cpu_is_the_targets(board: Board) -> None:
    flags = ("--target", "cortex-a76", "--samples", "16", "--json")
    document = json.loads(board.run("parity", *flags).stdout)
    cells = {(cell["variant"], cell["runner"]): cell for cell in document["cells"]}
    assert len(cells) == 4, "int8-avx2 is for x86"
    for runner in ("ort-cpu", "openvino"):
        assert cells["fp32", runner]["verdict"] == "pass"
        assert cells["fp32", runner]["sqnr_db"] > 110
        assert cells["int8", runner]["file_sqnr_db"] > 20
        assert {cells[one, runner]["device_name"] for one in ("fp32", "int8")} <= {
            "Arm Cortex-A76",
            "",
        }
    assert cells["int8", "ort-cpu"]["kernels_sqnr_db"] > cells["int8", "ort-cpu"]["file_sqnr_db"]
    facts = document["hosts"]["cortex-a76"]
    assert (facts["cpu"], facts["machine"]) == ("Arm Cortex-A76", "aarch64")
    assert facts["cpu_flags"] == ["dotprod", "fp16"]


@pytest.mark.parametrize(("cpu", "variant"), [("cortex-a72", "fp32"), ("cortex-a76", "int8")])
def test_a_bundle_verifies_inside_and_takes_the_variant_that_fits(
    cpu: str, variant: str, board: Board
) -> None:
    done = board.emulated(cpu, "verify", str(board.bundle), "--samples", "4", "--json")
    document = json.loads(done.stdout)
    assert document["variant"] == variant
    assert done.returncode in (0, 6), done.stdout + done.stderr
    assert document["p50_ms"] is None, "timings of an emulated CPU mean nothing"
    assert document["host"]["cpu"].lower() == f"arm {cpu}"


def test_a_flipped_byte_is_refused_inside(board: Board, tmp_path: Path) -> None:
    data = bytearray(board.bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / board.bundle.name).write_bytes(data)
    done = board.emulated("cortex-a76", "verify", str(tmp_path / board.bundle.name))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_same_bundle_verifies_on_this_machine(board: Board) -> None:
    done = board.run("verify", str(board.bundle), "--runner", "ort-cpu", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["variant"] == "fp32", "int8 is said to be for dotprod"


def test_an_application_on_the_board_predicts(board: Board) -> None:
    code = (
        "import sys, numpy as np\n"
        "from edgepipe.runners import load_bundle\n"
        "with load_bundle(sys.argv[1], runner='ort-cpu') as model:\n"
        "    frame = np.full((64, 64, 3), 200, np.uint8)\n"
        "    said = model.predict(frame)\n"
        "    print(model.choice.variant, said.label, round(float(said.probabilities.sum()), 6))\n"
    )
    done = subprocess.run(
        [str(board.python), "-c", code, str(board.bundle)],
        capture_output=True,
        text=True,
        # numpy for another CPU, were it followed
        env=os.environ | {"QEMU_CPU": "cortex-a76", "PYTHONPATH": site.getsitepackages()[0]},
    )
    assert done.returncode == 0, done.stderr
    variant, label, total = done.stdout.split()
    assert (variant, float(total)) == ("int8", 1.0)
    assert label in {str(digit) for digit in range(10)}


def test_inside_nothing_is_timed(board: Board) -> None:
    done = board.emulated("cortex-a76", "verify", str(board.bundle), "--samples", "1")
    assert "p50" not in done.stdout


@pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="needs sshd (Debian: openssh-server)"
)
def test_over_ssh_it_is_deployed_to_and_never_timed(board: Board, box: Box, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "edgepipe.toml").write_text(box.toml(python=str(board.python)))
    there = ("--target", "box", "--json")

    def run(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "edgepipe.pipeline.cli", *words, *there]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return {"code": done.returncode, **json.loads(done.stdout)}

    findings = {row["check"]: row["what"] for row in run("doctor")["findings"]}
    assert "Arm Cortex-A76, emulated by qemu-aarch64" in findings["machine"]
    found = run("deploy", str(board.bundle), "--folder", str(tmp_path / "site"))
    assert (found["code"], found["outcome"]) == (0, "deployed"), found
    assert found["verification"]["variant"] == "int8"
    assert found["verification"]["host"]["machine"] == "aarch64"
    workspace = ("--workspace", str(board.folder / "artifacts"))
    (cell,) = run("bench", "--quick", "--runner", "ort-cpu", "--variant", "fp32", *workspace)[
        "cells"
    ]
    assert cell["status"] == "failed"
    assert not cell.get("p50_ms")
    assert "emulated by qemu-aarch64" in cell["reason"]


def test_a_cpu_that_is_not_there_is_named(board: Board) -> None:
    done = board.emulated("cortex-z1", "--help")
    assert done.returncode == 127
    assert "it has cortex-a53, cortex-a72, cortex-a76" in done.stderr


def test_a_cut_file_of_the_system_is_found(board: Board) -> None:
    library = next((board.python.parents[1] / "root").glob("lib/aarch64-linux-gnu/libm.so.6"))
    data = library.read_bytes()
    library.write_bytes(data[:-1])
    try:
        listed = json.loads(board.run("env", "list", "--json").stdout)
        assert "libm.so.6 of arm64_sysroot" in listed["environments"][0]["state"]
    finally:
        library.write_bytes(data)


def test_it_is_used_again(board: Board) -> None:
    marker = board.folder / "cache" / "edgepipe" / "envs" / "arm64.json"
    before = marker.stat().st_mtime_ns
    assert board.run("env", "create", "arm64").returncode == 0
    assert marker.stat().st_mtime_ns == before
    assert environments.ARM64 in environments.known()
