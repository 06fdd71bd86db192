"""Folders for servers, held against the rules that the servers document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import package
from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.shipping.packing.layouts import Tensors, layout
from edgepipe.runners.bundles.index import Variant
from edgepipe.runners.images import Preprocessing

from ... import bundles
from ...made import contents

Run = Callable[..., CompletedProcess[str]]
TENSORS = Tensors("input", "logits", 1, 10)


def parse(text: str) -> Any:
    """protobuf's text format, as much of it as config.pbtxt uses: a dict of lists."""
    tokens = re.findall(r'"[^"]*"|[\w.-]+|[\[\]{}:,]', text)

    def value() -> Any:
        token = tokens.pop(0)
        if token == "{":
            return fields("}")
        if token == "[":
            found = []
            while tokens[0] != "]":
                if tokens[0] == ",":
                    tokens.pop(0)
                    continue
                found.append(value())
            tokens.pop(0)
            return found
        return json.loads(token) if token[0] == '"' or token.isdigit() else token

    def fields(end: str | None) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        while tokens and tokens[0] != end:
            name = tokens.pop(0)
            if tokens[0] == ":":
                tokens.pop(0)
            one = value()
            found.setdefault(name, []).extend(one if isinstance(one, list) else [one])
        if end:
            tokens.pop(0)
        return found

    return fields(None)


def made(kind: str, tensors: Tensors = TENSORS, **changes: Any) -> dict[str, bytes]:
    files = bundles.files()
    return contents(layout(kind, bundles.index(files, **changes), tensors, files))


def check_triton(files: dict[str, bytes], model: str, backend: str, name: str) -> dict[str, Any]:
    """Triton's rules for one model of a repository."""
    config = parse(files[f"{model}/config.pbtxt"].decode())
    assert config["name"] == [model], "the model's name is its folder's"
    assert config["backend"] == [backend]
    assert config["default_model_filename"] == [name]
    versions = {path.split("/")[1] for path in files if path.startswith(f"{model}/1/")}
    assert versions == {"1"}
    assert f"{model}/1/{name}" in files
    (output,) = config["output"]
    assert output["label_filename"] == ["labels.txt"]
    labels = files[f"{model}/labels.txt"].decode().splitlines()
    assert len(labels) == output["dims"][-1] == 10
    for tensor in (*config["input"], output):
        assert tensor["data_type"] == ["TYPE_FP32"]
    return config


def test_triton_with_a_fixed_batch_has_it_in_the_dimensions() -> None:
    config = check_triton(made("triton"), "tiny-fp32", "onnxruntime", "model.onnx")
    assert config["max_batch_size"] == [0]
    assert config["input"][0]["dims"] == [1, 3, 8, 8]
    assert config["output"][0]["dims"] == [1, 10]


def test_triton_with_an_open_batch_leaves_it_out_of_the_dimensions() -> None:
    tensors = Tensors("input", "logits", None, 10)
    config = check_triton(made("triton", tensors), "tiny-fp32", "onnxruntime", "model.onnx")
    assert config["max_batch_size"][0] > 0
    assert config["input"][0]["dims"] == [3, 8, 8]
    assert config["output"][0]["dims"] == [10]


def test_a_model_that_normalizes_by_itself_takes_bytes() -> None:
    preprocessing = replace(bundles.index({}).preprocessing, folded=True)
    files = made("triton", preprocessing=preprocessing)
    (tensor,) = parse(files["tiny-fp32/config.pbtxt"].decode())["input"]
    assert (tensor["data_type"], tensor["dims"]) == (["TYPE_UINT8"], [1, 8, 8, 3])
    about = json.loads(files["preprocessing.json"])
    assert (about["dtype"], about["layout"], about["formula"]) == ("uint8", "NHWC", "x")


def test_a_rectangle_of_one_channel_has_its_own_dimensions() -> None:
    preprocessing = Preprocessing((4, 6), (0.5,), (0.5,), channels="grey")
    files = made("triton", preprocessing=preprocessing)
    (tensor,) = parse(files["tiny-fp32/config.pbtxt"].decode())["input"]
    assert tensor["dims"] == [1, 1, 4, 6]
    about = json.loads(files["preprocessing.json"])
    assert (about["size"], about["channels"], about["mean"]) == ([4, 6], "grey", [0.5])


IR_AND_ONNX = {"openvino-ir": ("fp32.xml", "fp32.bin"), "onnx": ("fp32.onnx",)}


@pytest.mark.parametrize(
    ("kind", "model"), [("triton", "onnx"), ("kserve", "onnx"), ("ovms", "xml")]
)
def test_a_server_gets_the_format_that_it_computes_in_f32(kind: str, model: str) -> None:
    """Triton's OpenVINO can't be told f32: with IR there, it still gets ONNX."""
    files = bundles.files() | {"fp32.xml": b"<net/>", "fp32.bin": b"weights"}
    index = bundles.index(files, variants={"fp32": Variant(IR_AND_ONNX)})
    found = contents(layout(kind, index, TENSORS, files))
    (path,) = (path for path in found if re.search(r"/1/model\.(onnx|xml)$", path))
    assert path.endswith(model)
    assert any(path.endswith("/1/model.bin") for path in found) == (model == "xml")


def test_triton_takes_the_threads_recommended_for_onnxruntime() -> None:
    recommended = tuple(
        bundles.recommended("fp32", runner, threads=threads)
        for runner, threads in (("openvino", 2), ("ort-cpu", 3))
    )
    found = made("triton", recommended=recommended)
    config = check_triton(found, "tiny-fp32", "onnxruntime", "model.onnx")
    (parameter,) = config["parameters"]
    assert parameter["key"] == ["intra_op_thread_count"]
    assert parameter["value"][0]["string_value"] == ["3"]


def test_ovms_lists_every_model_with_a_base_path_that_holds_versions() -> None:
    files = made("ovms")
    entries = json.loads(files["config.json"])["model_config_list"]
    assert [entry["config"]["name"] for entry in entries] == ["tiny-fp32", "tiny-int8"]
    for entry in entries:
        config = entry["config"]
        inside = [path for path in files if path.startswith(f"{config['base_path']}/")]
        assert inside == [f"{config['base_path']}/1/model.onnx"], "only positive numbers inside"
        assert config["plugin_config"]["INFERENCE_PRECISION_HINT"] == "f32"
        assert all(isinstance(value, str) for value in config["plugin_config"].values())
        assert files[f"labels/{config['name']}.txt"].decode().split() == list("0123456789")


def test_kserve_has_a_service_and_a_triton_repository_for_each_variant() -> None:
    files = made("kserve")
    for variant in ("fp32", "int8"):
        text = files[f"tiny-{variant}.yaml"].decode()
        name = re.search(r"^  name: (.*)$", text, re.MULTILINE)
        assert name
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name[1]), "a DNS label"
        assert "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\n" in text
        assert "protocolVersion: v2" in text
        assert f"storageUri: pvc://models/{name[1]}\n" in text
        inside = {
            path.removeprefix(f"{name[1]}/"): data
            for path, data in files.items()
            if path.startswith(f"{name[1]}/")
        }
        check_triton(inside, f"tiny-{variant}", "onnxruntime", "model.onnx")


def test_a_kubernetes_name_has_no_underscore() -> None:
    assert "mobilenet-v2-fp32.yaml" in made("kserve", name="mobilenet_v2")


def test_a_format_that_a_server_does_not_take_is_an_error() -> None:
    variants = {"fp32": Variant({"openvino-ir": ("fp32.onnx",)})}
    with pytest.raises(UsageError, match="triton takes onnx, variant fp32 has openvino-ir: add"):
        made("triton", variants=variants)
    variants = {"fp32": Variant({"pt2": ("fp32.onnx",)})}
    with pytest.raises(UsageError, match="ovms takes openvino-ir or onnx, variant fp32 has pt2"):
        made("ovms", variants=variants)


@pytest.mark.parametrize("kind", ["ovms", "triton", "kserve"])
def test_the_command_writes_the_folder_and_its_model_gives_the_goldens_answers(
    measured: Path, tmp_path: Path, kind: Any
) -> None:
    """The repository says all that a client needs: names, formula, files."""
    import onnxruntime

    result = package(workspace=measured, output=tmp_path, layout=kind, variants=("fp32",))
    again = package(workspace=measured, output=tmp_path, layout=kind, variants=("fp32",))
    assert again.path == result.path, "equal contents, equal name"
    assert [path.name for path in tmp_path.iterdir()] == [result.path.name]
    about = json.loads((result.path / "preprocessing.json").read_text())
    with np.load(measured / "mobilenet_v2" / "goldens.npz") as goldens:
        image, logits = goldens["images"][:1], goldens["fp32.logits"][:1]
    mean, std = (np.float32(about[name]) for name in ("mean", "std"))
    tensor = ((image / np.float32(255) - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    (model,) = result.path.rglob("model.onnx")
    found = onnxruntime.InferenceSession(model).run([about["output"]], {about["input"]: tensor})
    np.testing.assert_allclose(np.asarray(found[0]), logits, atol=1e-3)


def test_a_layout_that_is_none_is_a_usage_error(measured: Path, edgepipe: Run) -> None:
    done = edgepipe("package", "--workspace", measured, "--layout", "tensorflow")
    assert done.returncode == 2
    assert "package.layout" in done.stderr
    done = edgepipe("package", "--workspace", measured, "--layout", "ovms", "--sign-key", "k")
    assert done.returncode == 2
    assert "is not signed" in done.stderr


def test_openvino_takes_the_settings_of_ovms_and_computes_in_f32(
    measured: Path, tmp_path: Path
) -> None:
    """The model server hands ``plugin_config`` to OpenVINO as it is."""
    import openvino

    found = package(workspace=measured, output=tmp_path, layout="ovms", variants=("fp32",)).path
    (entry,) = json.loads((found / "config.json").read_text())["model_config_list"]
    (model,) = (found / entry["config"]["base_path"] / "1").iterdir()
    settings = entry["config"]["plugin_config"]
    compiled = openvino.Core().compile_model(model, entry["config"]["target_device"], settings)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("NUM_STREAMS") == 1
