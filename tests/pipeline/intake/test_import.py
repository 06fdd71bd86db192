"""import and inspect, as a user calls them: what comes in, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantFormat

from edgepipe.pipeline.storage.goldens import Goldens
from edgepipe.pipeline.storage.manifest import Manifest

from ..quantization.nets import SIDE, residual_net
from .files import INT64, refused, saved, succeeded, value
from .test_repair import quantized

Run = Callable[..., CompletedProcess[str]]


def embedding(path: Path) -> Path:
    """Tokens of a vocabulary of 50, their vectors summed and weighed."""
    random = np.random.default_rng(0)
    return saved(
        path,
        [
            helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
            helper.make_node("ReduceMean", ["vectors"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
        ],
        [value("tokens", ["batch", "length"], INT64)],
        value("scores", ["batch", 4]),
        table=random.normal(size=(50, 16)).astype("f4"),
        weights=random.normal(size=(16, 4)).astype("f4"),
    )


def manifest(folder: Path, name: str) -> Manifest:
    path = folder / "artifacts" / name / "manifest.json"
    return Manifest.from_json(path.read_text(), path)


@pytest.mark.long
def test_what_export_made_gives_the_same_int8_again(
    exported: Path, tmp_path: Path, edgepipe: Run
) -> None:
    before = exported / "mobilenet_v2"
    done = edgepipe("import", before / "fp32.onnx", "--name", "again")
    after = tmp_path / "artifacts" / "again"
    assert "preprocessing and labels are those of manifest.json" in succeeded(done).stderr
    for name in ("fp32.onnx", "int8.onnx", "int8-avx2.onnx", "calibration.npz"):
        assert (after / name).read_bytes() == (before / name).read_bytes(), name


def test_a_text_models_tokens_are_those_of_its_table(tmp_path: Path, edgepipe: Run) -> None:
    file = embedding(tmp_path / "text.onnx")
    refused(edgepipe("import", file), 3, "settle --dim length=…; --dim batch=… may stay open")
    done = succeeded(edgepipe("import", file, "--dim", "length=7"))
    assert "random values for tokens" in done.stderr
    made = manifest(tmp_path, "text")
    assert made.model["named_inputs"] == ["tokens:Nx7:int64:0..49"]
    assert (made.model["batch"], made.model["exporter"]) == ("dynamic", "a friend")
    goldens = Goldens.load(tmp_path / "artifacts" / "text" / "goldens.npz")
    assert 40 < goldens.arrays["tokens"].max() < 50
    assert goldens.fp64["scores"].dtype == np.float64
    assert 120 < goldens.reference_sqnr_db < 160
    succeeded(edgepipe("parity", "--runner", "ort-cpu", "--runner", "openvino"))


def test_a_users_arrays_calibrate_and_become_goldens(tmp_path: Path, edgepipe: Run) -> None:
    file = saved(
        tmp_path / "sound.onnx",
        [
            helper.make_node("MatMul", ["samples", "weights"], ["raw"]),
            helper.make_node("Add", ["raw", "bias"], ["heard"]),
        ],
        [value("samples", [1, 16])],
        value("heard", [1, 3]),
        weights=np.random.default_rng(0).normal(size=(16, 3)).astype("f4"),
        bias=np.ones(3, "f4"),
    )
    samples = np.random.default_rng(1).normal(size=(60, 16)).astype("f4")
    np.savez(tmp_path / "mine.npz", samples=samples)
    succeeded(edgepipe("import", file, "--data", "mine.npz"))
    made = manifest(tmp_path, "sound")
    assert set(made.variants) == {"fp32", "int8", "int8-avx2"}
    assert made.model["goldens"]["count"] == 20
    assert made.model["calibration"] == {**made.model["calibration"], "from": "data", "count": 40}
    goldens = Goldens.load(tmp_path / "artifacts" / "sound" / "goldens.npz")
    np.testing.assert_array_equal(goldens.arrays["samples"], samples[:20])
    # Others than it was calibrated with are noticed.
    np.savez(tmp_path / "others.npz", samples=samples + 1)
    refused(
        edgepipe("quantize", "--recipe", "minmax", "--calibration", "others.npz", "--quiet"),
        2,
        "not the images that the export was calibrated with",
    )
    succeeded(edgepipe("quantize", "--recipe", "minmax", "--calibration", "mine.npz"))


def test_an_input_can_be_settled_for_good(tmp_path: Path, edgepipe: Run) -> None:
    file = saved(
        tmp_path / "state.onnx",
        [
            helper.make_node("Mul", ["x", "rate"], ["scaled"]),
            helper.make_node("Add", ["scaled", "state"], ["y"]),
        ],
        [value("x", [1, 4]), value("rate", []), value("state", [2, 1, 4])],
        value("y", [2, 1, 4]),
    )
    refused(edgepipe("import", file), 3, "input rate is a single number: say which, --value rate=…")
    refused(edgepipe("import", file, "--value", "rate=3"), 3, "its inputs have no batch in common")
    refused(
        edgepipe("import", file, "--value", "rate=high"),
        2,
        "rate=high: JSON for rate float32 [] expected",
    )
    refused(edgepipe("import", file, "--value", "speed=3"), 2, "has no input 'speed'")
    succeeded(edgepipe("import", file, "--value", "rate=3", "--value", "state=0"))
    goldens = Goldens.load(tmp_path / "artifacts" / "state" / "goldens.npz")
    expected = 3 * goldens.arrays["x"]
    np.testing.assert_allclose(goldens.fp32["y"][:, 0, 0], expected, rtol=1e-6)


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    """S8S8 of ``quantize_static``, beside "float.onnx", which it was made of."""
    quantized(tmp_path, "S8", "S8")
    return tmp_path / "int8.onnx"


def test_a_quantized_file_is_kept_and_judged_by_the_float_one(
    tmp_path: Path, int8: Path, edgepipe: Run
) -> None:
    done = edgepipe("import", int8, "--reference", "float.onnx", "--data", "x.npz", "--name", "q")
    assert done.returncode == 3  # no such file
    images = np.random.default_rng(1).normal(size=(48, 3, SIDE, SIDE)).astype("f4")
    np.savez(tmp_path / "x.npz", input=images)
    flags = ("--reference", "float.onnx", "--data", "x.npz", "--name", "q")
    succeeded(edgepipe("import", int8, *flags, "--repair"))
    made = manifest(tmp_path, "q")
    assert list(made.variants) == ["fp32", "given", "repaired", "int8", "int8-avx2"]
    folder = tmp_path / "artifacts" / "q"
    assert (folder / "given.onnx").read_bytes() == int8.read_bytes()
    assert "bit for bit" in made.stages[-1].result["summary"]
    succeeded(edgepipe("parity", "--runner", "ort-cpu", "--json"))
    cells = json.loads((folder / "parity.json").read_text())["cells"]
    by_variant = {cell["variant"]: cell for cell in cells if cell["status"] == "ok"}
    assert by_variant["given"]["file_sqnr_db"] == by_variant["repaired"]["file_sqnr_db"]
    assert by_variant["int8"]["file_sqnr_db"] > by_variant["given"]["file_sqnr_db"] + 3


def test_without_a_float_one_it_answers_for_itself(
    tmp_path: Path, int8: Path, edgepipe: Run
) -> None:
    refused(edgepipe("import", int8, "--variant", "int8"), 2, "isn't quantized again")
    done = succeeded(edgepipe("import", int8))
    assert "the runners' kernels are judged" in done.stderr
    assert list(manifest(tmp_path, "int8").variants) == ["given"]
    for flags in ((), ("--search", "--budget", "1s")):
        refused(edgepipe("quantize", *flags), 2, "holds a quantized file alone")
    missing = edgepipe("parity", "--variant", "int8")
    refused(missing, 2, "which has given: a quantized file is never quantized again")
    shown = succeeded(edgepipe("parity", "--runner", "ort-cpu")).stdout
    assert "the reference is the quantized file itself" in shown


def test_a_float_file_has_no_other_reference(tmp_path: Path, int8: Path, edgepipe: Run) -> None:
    refused(edgepipe("import", "float.onnx", "--reference", int8), 2, "it answers for itself")
    refused(edgepipe("import", "float.onnx", "--repair"), 2, "isn't quantized")


def test_external_data_is_taken_along_from_beside_the_file_only(
    tmp_path: Path, edgepipe: Run
) -> None:
    model = residual_net()
    inside = tmp_path / "one"
    inside.mkdir()
    onnx.save(
        model, inside / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    succeeded(edgepipe("import", "one/net.onnx"))
    made = manifest(tmp_path, "net")
    assert set(made.artifacts) == {"exported.onnx", "fp32.onnx", "goldens.npz"}
    moved = onnx.load(inside / "net.onnx", load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../one/w.bin"
    (inside / "net.onnx").write_bytes(moved.SerializeToString())
    refused(edgepipe("import", "one/net.onnx"), 3, "only a file beside it is taken")


def test_a_cut_off_file_is_refused(tmp_path: Path, edgepipe: Run) -> None:
    data = residual_net().SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    refused(edgepipe("import", "cut.onnx"), 3, "cut.onnx")
    refused(edgepipe("inspect", "cut.onnx"), 3, "cut.onnx")
    refused(edgepipe("import", "nowhere.onnx"), 3, "nowhere.onnx: No such file")


def test_half_precision_is_no_float32(tmp_path: Path, edgepipe: Run) -> None:
    file = saved(
        tmp_path / "half.onnx",
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [value("x", [1, 4], TensorProto.FLOAT16)],
        value("y", [1, 2], TensorProto.FLOAT16),
        weights=np.ones((4, 2), np.float16),
    )
    refused(edgepipe("import", file), 3, "its weights are float16")


def test_inspect_tells_what_a_file_is_and_who_takes_it(
    tmp_path: Path, int8: Path, edgepipe: Run
) -> None:
    done = succeeded(edgepipe("inspect", int8, "--runner", "ort-cpu"))
    assert "QDQ; activations" in done.stdout
    assert "signed-activations" in done.stdout
    assert "takes it" in done.stdout
    found = json.loads(succeeded(edgepipe("inspect", int8, "--json")).stdout)
    assert found["quantization"]["style"] == "QDQ"
    assert {one["runner"] for one in found["runners"]} >= {"ort-cpu", "openvino"}
    strange = saved(
        tmp_path / "strange.onnx",
        [helper.make_node("Unheard", ["x"], ["y"], domain="of.nobody")],
        [value("x", [1, 4])],
        value("y", [1, 4]),
    )
    done = edgepipe("inspect", strange, "--runner", "ort-cpu")
    assert done.returncode == 1
    assert "Unheard" in done.stdout


def test_an_operator_file_says_its_types(tmp_path: Path, edgepipe: Run) -> None:
    quantized(tmp_path, "U8", "U8", QuantFormat.QOperator)
    shown = succeeded(edgepipe("inspect", "int8.onnx", "--runner", "ort-cpu")).stdout
    assert "QOperator; activations" in shown
    assert "unsigned-weights" in shown


def test_a_grey_rectangle_is_an_image_if_that_is_said(tmp_path: Path, edgepipe: Run) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype("f4")
    file = saved(
        tmp_path / "grey.onnx",
        [
            helper.make_node("Conv", ["picture", "weights"], ["seen"]),
            helper.make_node("GlobalAveragePool", ["seen"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["scores"]),
        ],
        [value("picture", ["n", 1, 32, 48])],
        value("scores", ["n", 4]),
        weights=weights,
    )
    refused(edgepipe("import", file, "--channels", "3"), 2, "takes no images of 3")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    succeeded(edgepipe("import", file, "--channels", "grey", "--labels", "labels.txt"))
    made = manifest(tmp_path, "grey")
    assert (made.preprocessing["size"], made.model["classes"]) == ([32, 48], 4)
    succeeded(edgepipe("parity", "--runner", "ort-cpu", "--runner", "openvino"))
