"""parity: the whole command on the real workspace, its files, and its exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgepipe.pipeline.cells.session import Cell, open_cell, run_goldens
from edgepipe.pipeline.numerics import metrics
from edgepipe.pipeline.quantization import ranges
from edgepipe.pipeline.quantization.draft import Draft, with_own_biases
from edgepipe.pipeline.quantization.histograms import Calibrated
from edgepipe.pipeline.quantization.qdq import write
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.runners.images import Preprocessing
from edgepipe.runners.machine import host
from edgepipe.runners.targets import BUILT_IN_TARGETS, LOCAL
from edgepipe.runners.targets import HASWELL as HASWELL_TARGET

Run = Callable[..., CompletedProcess[str]]

# Then int8 fails parity here, rightly.
SATURATES = host.saturates(host.facts())


@pytest.fixture(scope="module")
def judged(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default workspace's model folder after `edgepipe parity`. Don't write to it."""
    root = Path(shutil.copytree(exported, tmp_path_factory.mktemp("judged") / "artifacts"))
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", "parity", "--workspace", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (1 if SATURATES else 0), done.stdout + done.stderr
    return root / "mobilenet_v2"


def test_every_cell_of_the_default_workspace_passes(judged: Path) -> None:
    document = json.loads((judged / "parity.json").read_text())
    elsewhere = (
        "ort-openvino",
        "ort-cuda",
        "ort-tensorrt",
    )  # in environments of their own, here or not
    cells = [cell for cell in document["cells"] if cell["runner"] not in elsewhere]
    assert len(cells) == 7
    for cell in cells:
        saturated = SATURATES and cell["variant"] == "int8"
        assert cell["verdict"] == ("fail" if saturated else "pass"), cell["reason"]
        assert cell["fault"] == ("saturation" if saturated else None)
        assert cell["samples"] == 64
        assert cell["sqnr_db"] >= cell["gate"]["min_sqnr_db"]
        assert cell["precision"] == "f32"
        assert sum(cell["placement"].values()) == 100
        twice = cell["variant"].startswith("int8")
        for figure in ("file_sqnr_db", "kernels_sqnr_db", "kernels_limit_db"):
            assert (cell[figure] is not None) == twice
    hashes = json.loads((judged / "manifest.json").read_text())["artifacts"]
    assert document["artifacts"] == {name: entry["sha256"] for name, entry in hashes.items()}


def test_judging_again_runs_nothing_and_takes_the_new_gates(
    judged: Path, edgepipe: Run, tmp_path: Path
) -> None:
    recording = shutil.copy(judged / "parity.npz", tmp_path / "kept.npz")
    before = edgepipe("parity", "--from", recording, "--json")
    assert before.returncode == (1 if SATURATES else 0)
    assert (
        json.loads(before.stdout)["cells"]
        == json.loads((judged / "parity.json").read_text())["cells"]
    )
    (tmp_path / "edgepipe.toml").write_text(
        "[gates.int8-avx2]\nmin-sqnr-db = 10.0\nmin-kernels-sqnr-db = 20.0\n"
        '[gates."int8-avx2/openvino"]\nmin-sqnr-db = 60.0\n'
        '[gates."int8-avx2/ort-openvino"]\nmin-kernels-sqnr-db = 60.0\n'
    )
    done = edgepipe("parity", "--from", recording, "--json")
    assert done.returncode == 1
    cells = {(c["variant"], c["runner"]): c for c in json.loads(done.stdout)["cells"]}
    cell = cells["int8-avx2", "openvino"]
    assert (cell["verdict"], cell["fault"], cell["gate"]["min_sqnr_db"]) == ("fail", "file", 60)
    assert cell["reason"].startswith("the file itself: SQNR 3")
    cell = cells["int8-avx2", "ort-cpu"]
    assert (cell["verdict"], cell["gate"]["min_sqnr_db"]) == ("pass", 10)
    assert cell["kernels_limit_db"] == 20 < cell["kernels_sqnr_db"]
    assert cells["fp32", "openvino"]["verdict"] == "pass"


def test_files_for_ci(workspace: Path, edgepipe: Run, tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text('[gates."int8-avx2/ort-cpu"]\nmin-top1 = 0.97\n')
    junit, markdown = tmp_path / "out.xml", tmp_path / "out.md"
    flags = ("--runner", "ort-cpu", "--variant", "fp32", "--variant", "int8-avx2")
    files = ("--junit", junit, "--markdown", markdown)
    done = edgepipe("parity", *flags, *files, "--workspace", workspace)
    assert done.returncode == 6, "64 samples can't carry a claim of 97 %"
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("2", "1", "0")
    error = suite.find(".//error")
    assert error is not None
    assert re.search(r"can't carry a claim of 97%; \d+ samples", error.get("message") or "")
    text = markdown.read_text()
    assert "| fp32 | ort-cpu | local | f32 | ✅ pass |" in text
    assert "❔ inconclusive" in text
    assert "| file dB | kernels dB |" in text
    figures = [case.findtext("system-out") or "" for case in suite.iter("testcase")]
    assert ["kernels SQNR dB" in said for said in figures] == [False, True]


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


HASWELL = ("--samples", "16", "--target", "haswell", "--runner", "ort-cpu")


@haswell
def test_int8_saturates_on_an_emulated_haswell_and_int8_avx2_holds(
    workspace: Path, edgepipe: Run
) -> None:
    variants = ("--variant", "int8", "--variant", "int8-avx2")
    done = edgepipe("parity", *HASWELL, *variants, "--workspace", workspace, "--json", timeout=900)
    assert done.returncode == 1, done.stdout
    cells = json.loads(done.stdout)["cells"]
    assert {cell["target"] for cell in cells} == {"haswell"}
    for cell in cells:
        fails = cell["variant"] == "int8"
        assert (cell["verdict"], cell["fault"]) == (
            ("fail", "saturation") if fails else ("pass", None)
        )
        assert cell["file_sqnr_db"] > 25, "the file is good on every CPU"
        assert (cell["kernels_sqnr_db"] < cell["kernels_limit_db"]) == fails
        assert not fails or "int8-avx2 is the variant for it" in cell["reason"]


@pytest.mark.skipif("avx2" not in host.facts()["cpu_flags"], reason="needs AVX2")
def test_int8_saturates_on_a_cpu_that_computes_as_avx2_and_int8_avx2_holds(
    workspace: Path, edgepipe: Run
) -> None:
    flags = ("--target", "isa-avx2", "--workspace", workspace)
    done = edgepipe("parity", *flags, "--json")
    assert done.returncode == 1, done.stdout
    document = json.loads(done.stdout)
    assert document["hosts"]["isa-avx2"]["isa"] == "AVX2"
    cells = {cell["variant"]: cell for cell in document["cells"] if cell["runner"] == "openvino"}
    assert list(cells) == ["fp32", "int8", "int8-avx2"]
    for variant, cell in cells.items():
        fails = variant == "int8"
        assert cell["isa"] == "Intel AVX2"
        assert (cell["verdict"], cell["fault"]) == (
            ("fail", "saturation") if fails else ("pass", None)
        )
        assert not fails or "int8-avx2 is the variant for it" in cell["reason"]
    assert "ort-cpu" not in {cell["runner"] for cell in document["cells"]}
    again = edgepipe("parity", "--from", workspace / "mobilenet_v2" / "parity.npz")
    assert "isa-avx2: estimate: this CPU computing as AVX2" in again.stdout
    done = edgepipe("parity", *flags, "--runner", "ort-cpu")
    assert done.returncode == 5
    assert "--target haswell emulates such a CPU" in done.stdout


@haswell
def test_computing_as_avx2_gives_what_the_emulated_haswell_does(exported: Path) -> None:
    """Measured: bit for bit. A kernel of OpenVINO's own may add in another order elsewhere."""
    folder = exported / "mobilenet_v2"
    goldens = Goldens.load(folder / "goldens.npz")
    preprocessing = Preprocessing.from_json(
        json.loads((folder / "manifest.json").read_text())["preprocessing"]
    )
    answers = {}
    for target in (BUILT_IN_TARGETS["isa-avx2"], HASWELL_TARGET, LOCAL):
        cell = Cell("int8", "openvino", target, "f32", "int8.onnx", 1)
        with open_cell(cell, folder / "int8.onnx") as opened:
            answers[target.name] = run_goldens(opened, goldens, preprocessing, 2)["logits"]
    assert metrics.sqnr_db(answers["isa-avx2"], answers["haswell"]) > 100
    if not host.saturates(host.facts()):
        assert metrics.sqnr_db(answers["local"], answers["haswell"]) < 40


@pytest.mark.long
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
    prepared = tmp_path / "prepared.onnx"
    quant_pre_process(folder / "fp32.onnx", prepared)
    plain = Draft(with_own_biases(onnx.load(prepared)))
    calibrated = Calibrated.load(folder / "calibration.npz")
    plain = replace(plain, ranges=ranges.choose(calibrated, "min-max"))
    sqnr_db = {}
    for name, bits in (("8-bit", 8), ("7-bit", 7)):
        draft = replace(plain, bits={one.node.name: bits for one in plain.weighted()})
        model = tmp_path / f"{name}.onnx"
        onnx.save(write(draft), model)
        for target in (LOCAL, HASWELL_TARGET):
            cell = Cell("int8", "ort-cpu", target, "f32", model.name, None)
            with open_cell(cell, model) as opened:
                outputs = run_goldens(opened, goldens, preprocessing, 8)["logits"]
            sqnr_db[name, target.name] = metrics.sqnr_db(outputs, goldens.fp32["logits"][:8])
    assert sqnr_db["7-bit", "haswell"] > 20
    assert sqnr_db["8-bit", "haswell"] < 20
    host_has_vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    assert not host_has_vnni or sqnr_db["8-bit", "local"] > 20
