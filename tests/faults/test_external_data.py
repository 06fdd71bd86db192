"""ONNX files whose tensors are somewhere else (row 4 of the fault table): no runner sees them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from edgepipe.pipeline.external import keeps_data_elsewhere
from edgepipe.pipeline.manifest import Artifact, Manifest
from edgepipe.runners.images import Preprocessing

from .conftest import refused

Run = Callable[..., subprocess.CompletedProcess[str]]
WEIGHTS = numpy_helper.from_array(np.ones((192, 10), np.float32), "weights")


def model(*initializers: TensorProto, **graph: object) -> ModelProto:
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        list(initializers),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def elsewhere(**fields: str) -> TensorProto:
    """The weights, said to be in another file."""
    tensor = TensorProto()
    tensor.CopyFrom(WEIGHTS)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


CASES: dict[str, dict[str, str]] = {
    "parent": {"location": "../secret"},
    "absolute": {"location": "/etc/passwd"},
    "beside": {"location": "weights.bin"},
    "negative": {"location": "weights.bin", "offset": "-8", "length": "-1"},
    "huge": {"location": "weights.bin", "length": "99999999999999999999"},
    "unknown": {"location": "weights.bin", "executable": "yes"},
    "nothing": {},
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_before_any_runner_sees_it(case: str, edgepipe: Run, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "linear"
    folder.mkdir(parents=True)
    content = model(elsewhere(**CASES[case])).SerializeToString()
    (folder / "fp32.onnx").write_bytes(content)
    (tmp_path / "artifacts" / "secret").write_bytes(WEIGHTS.raw_data)
    manifest = Manifest(
        model={"name": "linear", "weights": "own", "trained": True, "classes": 10},
        preprocessing=Preprocessing.preset("none", 8).to_json(),
        variants={"fp32": {"onnx": "fp32.onnx"}},
        artifacts={"fp32.onnx": Artifact(sha256(content).hexdigest(), len(content))},
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = edgepipe("predict", "a.png", "--model", "linear", "--json")
    refused(done, 3, "fp32.onnx: keeps tensors in another file")


def test_tensors_are_found_wherever_a_model_can_have_them() -> None:
    far = elsewhere(location="x")
    constant = model(WEIGHTS)
    constant.graph.node.append(helper.make_node("Constant", [], ["c"], value=far))
    nested = model(WEIGHTS)
    branch = helper.make_graph([], "branch", [], [], [far])
    nested.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch))
    function = model(WEIGHTS)
    inside = helper.make_node("Constant", [], ["c"], value=far)
    function.functions.append(helper.make_function("d", "f", [], ["c"], [inside], []))
    sparse = model(WEIGHTS)
    sparse.graph.sparse_initializer.add().values.CopyFrom(far)
    undecided = model(WEIGHTS)
    undecided.graph.initializer[0].external_data.add(key="location", value="x")
    for made in (model(far), constant, nested, function, sparse, undecided):
        assert keeps_data_elsewhere(made.SerializeToString())
    assert not keeps_data_elsewhere(model(WEIGHTS).SerializeToString())


def test_damage_is_left_to_the_runner_and_ends() -> None:
    content = model(WEIGHTS).SerializeToString()
    random = np.random.default_rng(0)
    for cut in range(0, len(content), 97):
        keeps_data_elsewhere(content[:cut])
        damaged = bytearray(content)
        damaged[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
        keeps_data_elsewhere(bytes(damaged))
    assert not keeps_data_elsewhere(json.dumps({"not": "a model"}).encode())
    assert not keeps_data_elsewhere(b"\x3a" * 1000 + b"\xff" * 1000)
