"""parity: the whole command on the real workspace, its files, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from edgepipe.pipeline import metrics
from edgepipe.pipeline.cells import Cell, open_cell, run_goldens
from edgepipe.pipeline.goldens import Goldens
from edgepipe.runners.images import Preprocessing
from edgepipe.runners.targets import HASWELL as HASWELL_TARGET
from edgepipe.runners.targets import LOCAL

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def judged(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default workspace's model folder after `edgepipe parity`. Don't write to it."""
    root = Path(shutil.copytree(exported, tmp_path_factory.mktemp("judged") / "artifacts"))
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", "parity", "--workspace", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "mobilenet_v2"


def test_every_cell_of_the_default_workspace_passes(judged: Path) -> None:
    document = json.loads((judged / "parity.json").read_text())
    elsewhere = ("ort-openvino", "ort-cuda")  # in environments of their own, here or not
    cells = [cell for cell in document["cells"] if cell["runner"] not in elsewhere]
    assert len(cells) == 7
    for cell in cells:
        assert cell["verdict"] == "pass", cell["reason"]
        assert cell["samples"] == 64
        assert cell["sqnr_db"] >= cell["gate"]["min_sqnr_db"]
        assert cell["precision"] == "f32"
        assert sum(cell["placement"].values()) == 100
    hashes = json.loads((judged / "manifest.json").read_text())["artifacts"]
    assert document["artifacts"] == {name: entry["sha256"] for name, entry in hashes.items()}


def test_judging_again_runs_nothing_and_takes_the_new_gates(
    judged: Path, edgepipe: Run, tmp_path: Path
) -> None:
    recording = shutil.copy(judged / "parity.npz", tmp_path / "kept.npz")
    assert edgepipe("parity", "--from", recording).returncode == 0
    (tmp_path / "edgepipe.toml").write_text(
        '[gates.int8]\nmin-sqnr-db = 10.0\n[gates."int8/openvino"]\nmin-sqnr-db = 60.0\n'
    )
    done = edgepipe("parity", "--from", recording, "--json")
    assert done.returncode == 1
    cells = {(c["variant"], c["runner"]): c for c in json.loads(done.stdout)["cells"]}
    assert cells["int8", "openvino"]["verdict"] == "fail"
    assert cells["int8", "openvino"]["gate"]["min_sqnr_db"] == 60
    assert "SQNR" in cells["int8", "openvino"]["reason"]
    assert cells["int8", "ort-cpu"]["verdict"] == "pass"
    assert cells["int8", "ort-cpu"]["gate"]["min_sqnr_db"] == 10
    assert cells["int8-avx2", "openvino"]["verdict"] == "pass"


def test_a_computed_precision_that_was_not_asked_for_fails(
    judged: Path, edgepipe: Run, tmp_path: Path
) -> None:
    with np.load(judged / "parity.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    about = json.loads(arrays["about"].tobytes())
    about["cells"][0]["precision"] = "bf16"
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    done = edgepipe("parity", "--from", "other.npz", "--json")
    assert done.returncode == 1
    cell = json.loads(done.stdout)["cells"][0]
    assert cell["verdict"] == "fail"
    assert cell["reason"].startswith("computed in bf16, f32 was asked for")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"text"])
def test_a_recording_that_is_none_is_bad_input(
    edgepipe: Run, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    done = edgepipe("parity", "--from", "x.npz")
    assert done.returncode == 3
    assert done.stderr.startswith("edgepipe: x.npz: not a parity recording")


def test_a_missing_recording_is_bad_input(edgepipe: Run) -> None:
    done = edgepipe("parity", "--from", "gone.npz")
    assert (done.returncode, done.stderr) == (3, "edgepipe: gone.npz: No such file or directory\n")


def test_a_target_that_is_not_there_says_how_to_get_it(
    workspace: Path, edgepipe: Run, tmp_path: Path
) -> None:
    flags = ("--target", "haswell", "--runner", "ort-cpu", "--workspace", workspace)
    done = edgepipe("parity", *flags, env={"PATH": str(tmp_path)})
    assert done.returncode == 5
    assert "apt-get install qemu-user" in done.stdout


haswell = pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None, reason="needs qemu-x86_64 (Debian: qemu-user)"
)


HASWELL = ("--samples", "16", "--target", "haswell", "--runner", "ort-cpu", "--runner", "openvino")


@haswell
def test_the_int8_variants_hold_on_an_emulated_haswell(workspace: Path, edgepipe: Run) -> None:
    variants = ("--variant", "int8", "--variant", "int8-avx2")
    done = edgepipe("parity", *HASWELL, *variants, "--workspace", workspace, "--json")
    assert done.returncode == 0, done.stdout
    cells = json.loads(done.stdout)["cells"]
    assert [cell["verdict"] for cell in cells] == ["pass"] * 4
    assert {cell["target"] for cell in cells} == {"haswell"}


@haswell
def test_the_emulated_cpu_saturates_where_the_first_convolution_is_quantized(
    exported: Path, tmp_path: Path
) -> None:
    """Leaving that one in float avoids it, and so do 7-bit weights."""
    folder = exported / "mobilenet_v2"
    goldens = Goldens.load(folder / "goldens.npz")
    preprocessing = Preprocessing.from_json(
        json.loads((folder / "manifest.json").read_text())["preprocessing"]
    )
    sqnr_db = {}
    for name, reduce_range in (("8-bit", False), ("7-bit", True)):
        model = tmp_path / f"{name}.onnx"
        quantize_static(
            folder / "fp32.onnx",
            model,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            calibration_cache_path=folder / "calibration.json",
        )
        for target in (LOCAL, HASWELL_TARGET):
            cell = Cell("int8", "ort-cpu", target, "f32", model.name, None)
            with open_cell(cell, model) as opened:
                outputs = run_goldens(opened, goldens, preprocessing, 8)["logits"]
            sqnr_db[name, target.name] = metrics.sqnr_db(outputs, goldens.fp32["logits"][:8])
    assert sqnr_db["7-bit", "haswell"] > 20
    assert sqnr_db["8-bit", "haswell"] < 20
    host_has_vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    assert not host_has_vnni or sqnr_db["8-bit", "local"] > 20
