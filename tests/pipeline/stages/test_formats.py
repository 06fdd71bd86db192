"""Formats beside ONNX: one more stage, files that belong together, and the runner's best one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]
FORMAT = ("--format", "openvino-ir")
VARIANTS = ("--variant", "fp32", "--variant", "fp16")


@pytest.mark.long
def test_openvino_ir_is_exported_judged_timed_and_guarded(workspace: Path, edgepipe: Run) -> None:
    folder, flags = workspace / "mobilenet_v2", ("--workspace", workspace)
    done = edgepipe("export", *FORMAT, *VARIANTS, *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert re.search("^export +up to date$", done.stderr, re.MULTILINE)
    manifest = json.loads(done.stdout)
    assert manifest["variants"]["fp32"]["openvino-ir"] == "fp32.xml"
    assert manifest["variants"]["fp16"] == {"openvino-ir": "fp16.xml", "onnx": "fp16.onnx"}
    sizes = {name: (folder / name).stat().st_size for name in manifest["artifacts"]}
    assert sizes["fp16.bin"] < 0.6 * sizes["fp32.bin"]

    done = edgepipe("parity", "--runner", "openvino", "--runner", "ort-cpu", *flags, "--json")
    assert done.returncode == 0, done.stdout
    cells = {(c["variant"], c["runner"]): c for c in json.loads(done.stdout)["cells"]}
    files = {key: cell["file"] for key, cell in cells.items()}
    assert files == {
        ("fp32", "openvino"): "fp32.xml",
        ("fp16", "openvino"): "fp16.xml",
        ("fp32", "ort-cpu"): "fp32.onnx",
        ("fp16", "ort-cpu"): "fp16.onnx",
    }
    assert all(cell["verdict"] == "pass" for cell in cells.values())
    assert cells["fp32", "openvino"]["sqnr_db"] > cells["fp16", "openvino"]["sqnr_db"] + 20
    assert cells["fp16", "openvino"]["precision"] == "f32", "computed in f32, stored in f16"

    done = edgepipe("bench", "--quick", "--runner", "openvino", *flags, "--json")
    assert done.returncode == 0, done.stdout
    timed = {cell["variant"]: cell for cell in json.loads(done.stdout)["cells"]}
    for variant, cell in timed.items():
        assert cell["file"] == f"{variant}.xml"
        assert cell["size_bytes"] == sizes[f"{variant}.xml"] + sizes[f"{variant}.bin"]

    weights = bytearray((folder / "fp32.bin").read_bytes())
    weights[1000] ^= 1
    (folder / "fp32.bin").write_bytes(weights)
    done = edgepipe("parity", "--runner", "openvino", *flags)
    assert (done.returncode, done.stdout) == (4, "")
    assert "fp32.bin: not the file that the manifest describes" in done.stderr
    assert edgepipe("export", *FORMAT, *VARIANTS, "--force", *flags).returncode == 0
    assert {name: (folder / name).stat().st_size for name in sizes} == sizes

    assert edgepipe("export", *flags).returncode == 0
    assert not list(folder.glob("*.xml")) + list(folder.glob("*.bin")), "no longer asked for"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--format", "onnx-dynamo"), "onnx-dynamo is no format but a way to ONNX"),
        (("--exporter", "openvino-ir"), "exporter openvino-ir writes no ONNX"),
        (("--format", "openvino"), "export.formats: no 'openvino'; did you mean openvino-ir?"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    edgepipe: Run, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    done = edgepipe("export", *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert not list(tmp_path.glob("artifacts/*/*.onnx"))


def test_without_openvino_the_format_says_what_to_install(
    edgepipe: Run, tmp_path: Path, workspace: Path
) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('No module named openvino')")
    flags = (*FORMAT, "--workspace", workspace)
    done = edgepipe("export", *flags, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 5
    last = done.stderr.splitlines()[-1]
    assert last == 'edgepipe: No module named openvino; pip install "edgepipe[openvino,export]"'
