"""A box: environments with edgepipe's wheel and one runtime, and nothing that makes models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def rows(bundle: Path, request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What ``benchmarks/box.py`` found, by extra. --wheel saves building one."""
    wheel = request.config.getoption("--wheel")
    flags = ("--wheel", wheel) if wheel else ()
    command = [sys.executable, str(ROOT / "benchmarks" / "box.py"), str(bundle), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["extra"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize(("extra", "runner"), [("cpu", "ort-cpu"), ("openvino", "openvino")])
def test_a_bundle_verifies_with_one_runtime_and_no_more(
    rows: dict[str, dict[str, Any]], extra: str, runner: str
) -> None:
    row = rows[extra]
    assert (row["verdict"], row["runner"]) == ("pass", runner)
    assert row["absent"] == ["torch", "onnx", "onnxsim", "onnxscript"]
    heavy = {"pillow", "cryptography", "model-signing", "cyclonedx-python-lib", "scipy"}
    assert not heavy & {name.lower() for name in row["installed"]}
    assert "edgepipe" in row["imported"]
    assert ("onnxruntime" in row["imported"]) == (runner == "ort-cpu")
