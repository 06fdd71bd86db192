"""ONNX files whose tensors are somewhere else (row 4 of the fault table): no runner sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from edgepipe.pipeline.storage.manifest import Artifact, Manifest
from edgepipe.runners.backends.protobuf import varint
from edgepipe.runners.bundles.external import reaches_out
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
        assert reaches_out(made.SerializeToString()) == "keeps tensors in another file"
    assert reaches_out(model(WEIGHTS).SerializeToString()) is None


def test_a_compiled_context_is_refused() -> None:
    compiled = model(WEIGHTS)
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0)
    compiled.graph.node.append(node)
    assert "compiled context" in (reaches_out(compiled.SerializeToString()) or "")


FAR = model(elsewhere(location="x")).SerializeToString()
FINE = model(WEIGHTS).SerializeToString()


UNTOLD = [
    pytest.param(varint(100 << 3 | 3) + varint(100 << 3 | 4) + FAR, id="a group in front"),
    pytest.param(FINE + varint(100 << 3 | 3) + varint(100 << 3 | 4), id="a group behind"),
    pytest.param(varint(7) + FINE, id="field 0"),
    pytest.param(varint((1 << 35) | 7 << 3 | 2) + FINE, id="a tag of more than 32 bits"),
    pytest.param(FINE[:-1], id="cut off"),
    pytest.param(FINE + b"\xff" * 11, id="a number without an end"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"PK\x03\x04" + bytes(60), id="a zip archive"),
    pytest.param(b"\x80\x04\x95" + bytes(60), id="a pickle"),
    pytest.param(json.dumps({"not": "a model"}).encode(), id="text"),
    pytest.param(b"\x3a" * 1000 + b"\xff" * 1000, id="noise"),
]


@pytest.mark.parametrize("content", UNTOLD)
def test_what_nobody_can_tell_is_refused(content: bytes) -> None:
    assert reaches_out(content)


VERDICTS = """
import json, sys
sys.modules["onnx"] = sys.modules["google"] = None
from edgepipe.runners.bundles.external import reaches_out
print(json.dumps([reaches_out(bytes.fromhex(content)) for content in json.load(sys.stdin)]))
"""


def test_the_verdict_does_not_depend_on_the_onnx_library() -> None:
    contents = [FAR, FINE, *(content for case in UNTOLD for content in case.values)]
    contents += [model(elsewhere(**fields)).SerializeToString() for fields in CASES.values()]
    text = json.dumps([bytes(content).hex() for content in contents])
    command = [sys.executable, "-c", VERDICTS]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    verdicts = json.loads(done.stdout)
    assert verdicts == [reaches_out(content) for content in contents]
    assert [not verdict for verdict in verdicts] == [content == FINE for content in contents]


def test_a_location_that_wraps_around_is_seen() -> None:
    """Readers keep 32 bits of an enum, so that 2^32 + 1 is "external" to them."""
    tensor = WEIGHTS.SerializeToString() + varint(14 << 3) + varint((1 << 32) + 1)
    parsed = TensorProto.FromString(tensor)
    assert parsed.data_location == TensorProto.EXTERNAL
    graph = varint(5 << 3 | 2) + varint(len(tensor)) + tensor
    assert reaches_out(varint(7 << 3 | 2) + varint(len(graph)) + graph)


def test_no_mutation_gets_external_data_past_it() -> None:
    """Held against onnx's own reader, which sees what a runner would."""
    random = np.random.default_rng(0)
    base = model(elsewhere(location="weights.bin")).SerializeToString()
    for _ in range(4000):
        damaged = bytearray(base)
        for _ in range(int(random.integers(1, 4))):
            place = int(random.integers(len(damaged)))
            match int(random.integers(3)):
                case 0:
                    damaged[place] ^= 1 << int(random.integers(8))
                case 1:
                    damaged[place:place] = random.bytes(int(random.integers(1, 9)))
                case _:
                    del damaged[place : place + int(random.integers(1, 9))]
        if reaches_out(bytes(damaged)) is not None:
            continue
        try:
            parsed = ModelProto.FromString(bytes(damaged))
        except Exception:  # nobody reads it: no harm
            continue
        for tensor in parsed.graph.initializer:
            assert tensor.data_location != TensorProto.EXTERNAL
            assert not tensor.external_data
