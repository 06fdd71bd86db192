"""Models whose tensors lie in a file beside them: made small here, they are for 2 GiB and more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.pipeline.cells.session import Cell, open_cell
from edgepipe.pipeline.errors import InputError
from edgepipe.pipeline.intake import float64
from edgepipe.pipeline.quantization import sessions
from edgepipe.pipeline.quantization.draft import Draft, with_own_biases
from edgepipe.pipeline.quantization.qdq import QdqGraph, write
from edgepipe.pipeline.quantization.ranges import Range
from edgepipe.pipeline.stages.graphs import LayerGraph
from edgepipe.pipeline.stages.native import Native
from edgepipe.pipeline.storage import onnx_models
from edgepipe.runners.bundles import formats
from edgepipe.runners.targets import LOCAL

FEEDS = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def network() -> Any:
    """A convolution, a reshape and two products, one of a weight that is turned around."""
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 8, name)

    tensors = [
        tensor("c.w", 16, 3, 3, 3),
        tensor("c.b", 16),
        numpy_helper.from_array(np.array([0, -1]), "shape"),
        tensor("f.w", 1024, 32),
        tensor("g.w", 64, 32),
        tensor("g.b", 64),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "c.w", "c.b"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("Reshape", ["r", "shape"], ["s"], "s"),
        helper.make_node("Gemm", ["s", "f.w"], ["f"], "f"),
        helper.make_node("Relu", ["f"], ["h"], "h"),
        helper.make_node("Gemm", ["h", "g.w", "g.b"], ["y"], "g", transB=1),
    ]
    sizes: tuple[tuple[str, list[int | str]], ...] = (("x", ["n", 3, 8, 8]), ("y", ["n", 64]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes)
    graph = helper.make_graph(nodes, "network", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is too large for one file."""
    monkeypatch.setattr(onnx_models, "MOST_BYTES", 1 << 12)


@pytest.fixture
def apart(tmp_path: Path, small_limit: None) -> Path:
    path = tmp_path / "fp32.onnx"
    onnx_models.save(network(), path)
    return path


def answers(model: Any) -> np.ndarray:
    return sessions.session(model, optimize=False).run(None, FEEDS)[0]


def same_tensors(one: Any, other: Any) -> None:
    for left, right in zip(one.graph.initializer, other.graph.initializer, strict=True):
        assert left.name == right.name
        np.testing.assert_array_equal(numpy_helper.to_array(left), numpy_helper.to_array(right))


def test_what_fits_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "fp32.onnx"
    onnx_models.save(network(), path)
    assert onnx_models.files(path) == (path,)
    assert path.read_bytes() == network().SerializeToString(deterministic=True)


def test_what_does_not_fit_has_its_tensors_beside_it(apart: Path) -> None:
    model, beside = onnx_models.files(apart)
    assert beside.name == "fp32.data"
    assert model.stat().st_size < 1 << 12 < beside.stat().st_size
    # ONNX's own reader finds them, and what decides the graph's shape is in the model itself.
    same_tensors(onnx.load(apart), network())
    known = {tensor.name: tensor for tensor in onnx_models.load(apart).graph.initializer}
    assert not onnx_models.is_external(known["shape"])
    assert isinstance(onnx_models.values(known["f.w"]), np.memmap)
    assert onnx_models.size(onnx_models.load(apart)) >= network().ByteSize()


def test_equal_models_give_equal_bytes(apart: Path) -> None:
    again = apart.with_name("again") / apart.name
    again.parent.mkdir()
    onnx_models.copy(apart, again)
    for one, other in zip(onnx_models.files(apart), onnx_models.files(again), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_model_can_be_saved_over_itself_and_under_another_name(apart: Path) -> None:
    model = onnx_models.load(apart)
    model.producer_name = "other"
    onnx_models.save(model, apart)
    other = apart.with_name("given.onnx")
    onnx_models.copy(apart, other)
    for file in onnx_models.files(apart):
        file.unlink()
    found = onnx.load(other)
    assert found.producer_name == "other"
    same_tensors(found, network())


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
def test_runners_take_both_files(runner: str, apart: Path) -> None:
    whole = answers(network())
    cell = Cell("fp32", runner, LOCAL, "f32", apart.name, threads=1)
    with open_cell(cell, apart) as opened:
        (found,) = opened.worker.run(FEEDS).arrays.values()
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("location", "../fp32.data"),
        ("location", "other.data"),
        ("location", "/etc/passwd"),
        ("offset", "999999999"),
        ("offset", "-1"),
        ("length", "1e3"),
        ("executable", "yes"),
    ],
)
def test_the_one_file_may_be_named_and_nothing_else(key: str, value: str, apart: Path) -> None:
    assert formats.problem(onnx_models.files(apart)) is None
    assert formats.problem([apart]) == "fp32.onnx: keeps tensors in another file"
    model = onnx.load(apart, load_external_data=False)
    tensor = next(one for one in model.graph.initializer if onnx_models.is_external(one))
    onnx_models.set_external(tensor, {**onnx_models.external_fields(tensor), key: value})
    apart.write_bytes(model.SerializeToString())
    assert "keeps tensors" in (formats.problem(onnx_models.files(apart)) or "")
    cell = Cell("fp32", "ort-cpu", LOCAL, "f32", apart.name, threads=1)
    with pytest.raises(InputError), open_cell(cell, apart):
        raise AssertionError("opened")


def test_it_is_simplified_and_prepared_as_one_in_a_single_file_is(apart: Path) -> None:
    whole = apart.with_name("whole.onnx")
    whole.write_bytes(network().SerializeToString())
    with Native() as native:
        for operation in ("onnxsim", "prepare"):
            made = {}
            for source in (apart, whole):
                output = apart.with_name(f"{operation}-{source.name}")
                native.ask(operation, source=source, output=output)
                made[source] = onnx.load(output)
            operators = [[one.op_type for one in model.graph.node] for model in made.values()]
            assert operators[0] == operators[1]
            np.testing.assert_array_equal(answers(made[apart]), answers(made[whole]))


@pytest.mark.parametrize("exact_pairs", [False, True])
def test_its_int8_is_that_of_the_same_model_in_a_single_file(
    exact_pairs: bool, apart: Path
) -> None:
    ranges: dict[str, Range] = dict.fromkeys(("x", "r", "s", "h", "y"), (-3.0, 5.0))
    made = []
    for model in (onnx_models.load(apart), network()):
        draft = Draft(with_own_biases(model), ranges, frozenset({"c"}), exact_pairs=exact_pairs)
        made.append(write(draft))
    assert set(QdqGraph(made[0]).layers) == {"f", "g"}
    np.testing.assert_array_equal(answers(made[0]), answers(made[1]))


def test_its_layers_and_their_cost_are_known(apart: Path) -> None:
    whole = apart.with_name("whole.onnx")
    whole.write_bytes(network().SerializeToString())
    assert LayerGraph(apart).layers == LayerGraph(whole).layers
    assert all(layer.macs for layer in LayerGraph(apart).layers if layer.operators != "Reshape")


def test_it_is_computed_in_float64_without_a_copy_of_its_weights(apart: Path) -> None:
    whole = apart.with_name("whole.onnx")
    whole.write_bytes(network().SerializeToString())
    found = []
    for path in (apart, whole):
        evaluation = float64.Evaluation()
        evaluation.load({"model": str(path), "raised": True}, {})
        found.append(evaluation.evaluate({}, FEEDS)["y"])
    assert found[0].dtype == np.float64
    np.testing.assert_array_equal(*found)
