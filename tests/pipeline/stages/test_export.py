"""export: what it leaves behind, that it is right on real digits, and when it runs again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest

from edgepipe.pipeline.cells.session import Cell, open_cell
from edgepipe.pipeline.numerics.metrics import sqnr_db
from edgepipe.pipeline.stages.quantize import kernels
from edgepipe.pipeline.storage.digits import pictures
from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.runners.images import Preprocessing, normalize, stack
from edgepipe.runners.targets import LOCAL

Run = Callable[..., CompletedProcess[str]]
RUNNERS = ("ort-cpu", "openvino")


@pytest.fixture(scope="module")
def folder(exported: Path) -> Path:
    return exported / "mobilenet_v2"


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_the_manifest_tells_what_was_exported(manifest: dict[str, Any]) -> None:
    model = manifest["model"]
    assert model["trained"] is True
    assert model["weights"] == "digits"
    assert model["simplified"] is True
    assert model["parameters"] == 2_236_682
    assert manifest["labels"] == list("0123456789")
    assert set(manifest["variants"]) == {"fp32", "int8", "int8-avx2"}
    assert all(manifest["tools"].values())


@pytest.mark.parametrize("variant", ["int8", "int8-avx2"])
def test_all_convolutions_but_the_first_are_quantized(
    folder: Path, manifest: dict[str, Any], variant: str
) -> None:
    found = kernels(folder / f"{variant}.onnx")
    assert found["quantized_convolutions"] == 51
    assert len(found["float_convolutions"]) == 1
    assert found["clips"] == []
    assert found["operators"]["QLinearAdd"] == 10
    (record,) = (stage for stage in manifest["stages"] if stage["name"] == variant)
    assert record["result"]["quantized_convolutions"] == 51


def weights(path: Path) -> list[np.ndarray]:
    graph = onnx.load(path).graph
    return [
        array
        for array in map(onnx.numpy_helper.to_array, graph.initializer)
        if array.dtype == np.int8 and array.ndim == 4
    ]


def test_the_avx2_variant_is_proven_not_to_leave_16_bits(
    folder: Path, manifest: dict[str, Any]
) -> None:
    worst = {}
    for record in manifest["stages"]:
        if record["name"] in ("int8", "int8-avx2"):
            worst[record["name"]] = max(record["result"]["pairs"].values())
    assert worst["int8"] > 128 >= worst["int8-avx2"]
    # No bit is given away where none has to be: half the layers still use all eight.
    largest = [np.abs(array.astype(int)).max() for array in weights(folder / "int8-avx2.onnx")]
    assert len(largest) == 51
    assert np.median(largest) > 120


def test_what_each_step_gained_is_told_on_images_that_nobody_calibrated_with(
    manifest: dict[str, Any],
) -> None:
    for record in manifest["stages"]:
        if record["name"] in ("int8", "int8-avx2"):
            gained = record["result"]["gained"]
            steps = [step for step, _ in gained]
            assert steps == ["min-max", "least-squares", "rounding", "bias-correction"]
            assert gained[-1][1] > gained[0][1] + 1


def test_goldens_are_held_out_images_with_torchs_answers(folder: Path) -> None:
    goldens = Goldens.load(folder / "goldens.npz")
    labels = pictures("held_out")[1]
    assert len(goldens) == 64
    assert np.array_equal(goldens.labels, labels[:64])
    assert goldens.fp32["logits"].dtype == np.float32
    assert goldens.fp64["logits"].dtype == np.float64
    assert sqnr_db(goldens.fp32["logits"], goldens.fp64["logits"]) > 100
    assert np.mean(goldens.fp32["logits"].argmax(1) == labels[:64]) > 0.95


def predictions(folder: Path, variant: str, runner: str) -> np.ndarray:
    manifest = json.loads((folder / "manifest.json").read_text())
    preprocessing = Preprocessing.from_json(manifest["preprocessing"])
    tensors = normalize(stack(pictures("held_out")[0], preprocessing), preprocessing)
    cell = Cell(variant, runner, LOCAL, "f32", f"{variant}.onnx", None)
    with open_cell(cell, folder / cell.file) as opened:
        rows = [opened.worker.run({"input": image[None]}).arrays["logits"] for image in tensors]
    return np.concatenate(rows).argmax(axis=1)


@pytest.mark.long
@pytest.mark.parametrize("runner", RUNNERS)
def test_top1_on_the_held_out_digits(folder: Path, runner: str) -> None:
    labels = pictures("held_out")[1]
    top1 = {v: np.mean(predictions(folder, v, runner) == labels) for v in ("fp32", "int8")}
    assert top1["fp32"] >= 0.98
    assert top1["int8"] >= top1["fp32"] - 0.003


def test_a_second_export_makes_nothing_again(workspace: Path, edgepipe: Run) -> None:
    folder = workspace / "mobilenet_v2"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = edgepipe("export", "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date") == 5
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {k: v for k, v in before.items() if not k.startswith(".")} == {
        k: v for k, v in after.items() if not k.startswith(".")
    }


@pytest.mark.long
def test_a_missing_artifact_alone_is_made_again(workspace: Path, edgepipe: Run) -> None:
    path = workspace / "mobilenet_v2" / "int8.onnx"
    content = path.read_bytes()
    path.unlink()
    done = edgepipe("export", "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date") == 4
    assert path.read_bytes() == content


def test_narrowing_to_fp32_drops_int8_from_folder_and_manifest(
    workspace: Path, edgepipe: Run
) -> None:
    done = edgepipe("export", "--variant", "fp32", "--workspace", workspace, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["variants"]) == {"fp32"}
    names = {path.name for path in (workspace / "mobilenet_v2").iterdir()}
    assert "fp32.onnx" in names
    assert not any(name.startswith("int8") for name in names)


SMALL = ("--weights", "random", "--input-size", "64")


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "batch", "opset"),
    [
        (("--exporter", "onnx-torchscript", "--opset", "13"), 1, 13),
        (("--batch", "dynamic"), None, 20),
        (("--batch", "3", "--no-simplify", "--opset", "18"), 3, 18),
    ],
    ids=["torchscript", "dynamic", "batch-3"],
)
def test_other_ways_to_export(
    edgepipe: Run, tmp_path: Path, flags: tuple[str, ...], batch: int | None, opset: int
) -> None:
    done = edgepipe("export", *SMALL, *flags)
    assert done.returncode == 0, done.stderr
    assert "random weights" in done.stderr
    folder = tmp_path / "artifacts" / "mobilenet_v2"
    for variant in ("fp32", "int8"):
        model = onnx.load(folder / f"{variant}.onnx")
        (shape,) = (value.type.tensor_type.shape for value in model.graph.input)
        assert (shape.dim[0].dim_value or None) == batch
        assert opset in [entry.version for entry in model.opset_import if not entry.domain]
    measured = edgepipe("bench", "--quick", "--json")
    elsewhere = (
        "ort-openvino",
        "ort-cuda",
        "ort-tensorrt",
    )  # in environments of their own, here or not
    cells = [c for c in json.loads(measured.stdout)["cells"] if c["runner"] not in elsewhere]
    assert [cell["status"] for cell in cells] == ["ok"] * 7, cells
    assert {cell["batch"] for cell in cells} == {batch or 1}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"]["trained"] is False
    assert manifest["model"]["simplified"] is ("--no-simplify" not in flags)


def test_an_opset_that_dynamo_can_not_write_is_refused(edgepipe: Run, tmp_path: Path) -> None:
    done = edgepipe("export", *SMALL, "--opset", "13")
    assert done.returncode == 2
    assert "--exporter onnx-torchscript" in done.stderr
    assert not (tmp_path / "artifacts" / "mobilenet_v2" / "manifest.json").exists()


PARENT = """
import sys
from edgepipe.pipeline.cli import main
try:
    main()
finally:
    assert "onnx" in sys.modules, "nothing was done"
    assert "onnxruntime" not in sys.modules
"""


@pytest.mark.parametrize(
    "command",
    [
        ("export",),
        pytest.param(
            ("parity", "--explain", "--runner", "ort-cpu", "--variant", "int8", "--samples", "16"),
            marks=pytest.mark.long,
        ),
    ],
    ids=lambda command: command[0],
)
def test_native_sessions_are_made_in_workers_only(
    command: tuple[str, ...], workspace: Path
) -> None:
    if command[0] == "export":
        for file in ("fp32.onnx", "calibration.npz", "int8.onnx"):
            (workspace / "mobilenet_v2" / file).unlink()
    done = subprocess.run(
        [sys.executable, "-c", PARENT, *command, "--workspace", str(workspace)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
