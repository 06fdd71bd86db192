"""fp16: float16 inside and float32 at its ends, what does not fit left alone, and said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepipe.pipeline.numerics.metrics import sqnr_db
from edgepipe.pipeline.quantization.sessions import session
from edgepipe.pipeline.stages.formats.conversion import HalfGraph
from edgepipe.pipeline.stages.formats.work import Halving
from edgepipe.pipeline.stages.graphs import FED, LayerGraph
from edgepipe.runners.base import Settings
from edgepipe.runners.registry import get

from ..intake.files import INT64, saved, succeeded, value
from ..quantization.nets import SIDE, residual_net

Run = Callable[..., CompletedProcess[str]]


def model(nodes: Sequence[Any], output: str = "y", own: str = "", **constants: Any) -> Any:
    """A graph from ``x``, float32 [1, 4, 6, 6], to ``output``."""
    tensors = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    ]
    graph = helper.make_graph(
        nodes, "small", [value("x", [1, 4, 6, 6])], [value(output, None)], tensors
    )
    sets = [helper.make_opsetid("", 17), *([helper.make_opsetid(own, 1)] if own else [])]
    made = helper.make_model(graph, opset_imports=sets, ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def halved(made: Any, peaks: Mapping[str, float] | None = None) -> tuple[Any, dict[str, str]]:
    """The model with float16 inside, which is a sound one, and why nodes stay float32."""
    graph = HalfGraph(made, peaks or {})
    written = graph.written()
    onnx.checker.check_model(written, full_check=True)
    onnx.checker.check_model(graph.rounded(), full_check=True)
    return written, {one.node: one.reason for one in graph.kept}


def images(seed: int = 0, size: float = 1.0) -> dict[str, np.ndarray]:
    return {"x": (size * np.random.default_rng(seed).normal(size=(1, 4, 6, 6))).astype("f4")}


def types(made: Any) -> dict[str, int]:
    found = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(made).graph
    every = (*inferred.value_info, *inferred.input, *inferred.output)
    return found | {one.name: one.type.tensor_type.elem_type for one in every}


def casts(made: Any) -> int:
    return sum(node.op_type == "Cast" for node in made.graph.node)


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def test_all_that_fits_is_float16_between_two_casts() -> None:
    made = residual_net()
    written, kept = halved(made)
    assert not kept
    assert casts(written) == 2
    known = types(written)
    assert {known[one.name] for one in (*written.graph.input, *written.graph.output)} == {FLOAT}
    assert {one.data_type for one in written.graph.initializer} == {HALF}
    assert [node.name for node in written.graph.node if node.op_type == "Conv"] == [
        node.name for node in made.graph.node if node.op_type == "Conv"
    ]


def test_what_is_said_to_be_rounded_is_what_float16_arithmetic_gives() -> None:
    """ONNX's own evaluator computes float16 as such, node by node."""
    made = residual_net()
    graph = HalfGraph(made, {})
    shape = [side.dim_value for side in made.graph.input[0].type.tensor_type.shape.dim]
    random = np.random.default_rng(1)
    feeds = {"images": random.normal(size=[side or 8 for side in shape]).astype("f4")}
    feeds = {made.graph.input[0].name: feeds["images"]}
    exact = session(made).run(None, feeds)[0]
    rounded = session(graph.rounded(), optimize=False).run(None, feeds)[0]
    (truly,) = np.asarray(ReferenceEvaluator(graph.written()).run(None, feeds))
    assert truly.dtype == np.float32
    assert 45 < sqnr_db(rounded, exact) < 75
    assert sqnr_db(rounded, truly) > sqnr_db(truly, exact) - 6
    assert abs(sqnr_db(rounded, exact) - sqnr_db(truly, exact)) < 6


def test_values_that_leave_float16_stay_float32_and_nothing_else_does(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["small"], "first"),
        helper.make_node("Mul", ["small", "much"], ["large"], "grows"),
        helper.make_node("Sqrt", ["large"], ["root"], "shrinks"),
        helper.make_node("Relu", ["root"], ["y"], "last"),
    ]
    made = model(nodes, much=np.array(3e4, "f4"))
    onnx.save(made, tmp_path / "made.onnx")
    work = Halving()
    work.watch({"model": tmp_path / "made.onnx"}, images())
    files = {key: tmp_path / f"{key}.onnx" for key in ("output", "rounded")}
    told = work.halve({"source": tmp_path / "made.onnx", **files}, {})
    assert (told["nodes"], told["halves"]) == (4, 2)
    assert [one["node"] for one in told["kept"]] == ["grows", "shrinks"]
    assert all("values of" in one["reason"] for one in told["kept"])
    written = onnx.load(files["output"])
    known = types(written)
    assert (known["large"], known["small/half"]) == (FLOAT, HALF)
    outputs = session(written).run(None, images())[0]
    assert sqnr_db(outputs, session(made).run(None, images())[0]) > 50


@pytest.mark.parametrize(
    ("peak", "stays"),
    [(1.0, False), (3.2e4, False), (3.4e4, True), (np.inf, True), (np.nan, True), (1e-6, True)],
)
def test_a_tensor_has_to_leave_room_for_images_not_seen(peak: float, stays: bool) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], "a"), helper.make_node("Relu", ["a"], ["b"])]
    nodes += [helper.make_node("Relu", ["b"], ["y"], "c")]
    _, kept = halved(model(nodes), {"a": peak})
    assert ("a" in kept) == stays
    assert "c" not in kept


@pytest.mark.parametrize(
    ("constant", "stays"),
    [(1e-5, False), (1e-12, True), (0.0, False), (7e4, True), (np.inf, False)],
)
def test_a_constant_that_would_vanish_or_be_cut_off_stays(constant: float, stays: bool) -> None:
    nodes = [helper.make_node("Add", ["x", "c"], ["s"], "add")]
    nodes += [helper.make_node("Relu", ["s"], ["y"], "relu")]
    written, kept = halved(model(nodes, c=np.array(constant, "f4")))
    assert (list(kept) == ["add"]) == stays
    kind = types(written)["c"]
    assert kind == (FLOAT if stays else HALF)


def test_a_bound_that_is_out_of_reach_is_none() -> None:
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"], "clip")]
    low, high = np.array(0, "f4"), np.array(3.4e38, "f4")
    written, kept = halved(model(nodes, low=low, high=high))
    assert not kept
    feeds = images()
    assert np.allclose(session(written).run(None, feeds)[0], np.maximum(feeds["x"], 0), atol=1e-3)


def test_a_constant_of_both_kinds_of_nodes_is_exact_for_the_float32_one() -> None:
    shared = np.full((4, 1, 1), 1 + 2**-20, "f4")
    nodes = [
        helper.make_node("Mul", ["x", "shared"], ["a"], "half"),
        helper.make_node("Mul", ["x", "shared"], ["b"], "float"),
        helper.make_node("Mul", ["b", "b"], ["y"], "too"),
    ]
    made = model(nodes, shared=shared)
    made.graph.output.append(value("a", [1, 4, 6, 6]))
    written, kept = halved(made, {"b": 1e6})
    assert list(kept) == ["float", "too"]
    feeds = images()
    exact = session(made, optimize=False).run(["y"], feeds)[0]
    assert np.array_equal(session(written, optimize=False).run(["y"], feeds)[0], exact)


def test_branches_read_what_they_did_in_float32() -> None:
    def branch(name: str, operator: str) -> Any:
        node = helper.make_node(operator, ["r", "k"], [name])
        return helper.make_graph([node], name, [], [value(name, None)])

    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("ReduceMax", ["r"], ["most"], "most", keepdims=0),
        helper.make_node("Greater", ["most", "one"], ["so"], "greater"),
        helper.make_node(
            "If",
            ["so"],
            ["i"],
            "if",
            then_branch=branch("t", "Mul"),
            else_branch=branch("e", "Add"),
        ),
        helper.make_node("Mul", ["i", "r"], ["y"], "mul"),
    ]
    made = model(nodes, k=np.array(2, "f4"), one=np.array(1, "f4"))
    written, kept = halved(made)
    assert kept == {"if": "has graphs inside"}
    for feeds in (images(), images(size=0.01)):
        expected = session(made).run(None, feeds)[0]
        assert sqnr_db(session(written).run(None, feeds)[0], expected) > 50


def test_sizes_indices_and_operators_without_kernels_are_left_alone() -> None:
    nodes = [
        helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 2.0, 2.0]),
        helper.make_node("Resize", ["x", "", "scales"], ["big"], "resize"),
        helper.make_node("Shape", ["big"], ["shape"], "shape"),
        helper.make_node("Cast", ["shape"], ["sides"], "sides", to=FLOAT),
        helper.make_node("GridSample", ["big", "grid"], ["seen"], "sample"),
        helper.make_node("Own", ["seen"], ["own"], "own", domain="mine"),
        helper.make_node("ReduceSum", ["sides"], ["total"], "total", keepdims=0),
        helper.make_node("Add", ["seen", "total"], ["y"], "add"),
    ]
    grid = np.zeros((1, 2, 2, 2), "f4")
    made = model(nodes, own="mine", grid=grid)
    graph = HalfGraph(made, {})
    written = graph.written()
    assert {one.node: one.reason for one in graph.kept} == {
        "sides": "changes types that float16 is too coarse for",
        "sample": "no float16 kernel",
        "own": "no operator of ONNX's own",
    }
    known = types(written)
    assert (known["scales"], known["grid"]) == (FLOAT, FLOAT)
    assert [list(node.input) for node in written.graph.node if node.op_type == "Shape"] == [["big"]]


def test_layers_of_float16_are_shown_and_run_apart_as_float32(tmp_path: Path) -> None:
    made = residual_net()
    onnx.save(made, tmp_path / "float.onnx")
    onnx.save(HalfGraph(made, {}).written(), tmp_path / "half.onnx")
    graphs = {name: LayerGraph(tmp_path / f"{name}.onnx") for name in ("float", "half")}
    (name,) = graphs["half"].inputs
    feeds = {name: np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype("f4")}
    shown = {}
    for kind, graph in graphs.items():
        watched = graph.shown()
        run = session(watched.model).run
        names = list(watched.names.values())
        shown[kind] = dict(zip(watched.names, run(names, feeds), strict=True))
    shared = set(shown["float"]) & set(shown["half"])
    assert len(shared) == len(graphs["float"].layers) > 5
    exact = {tensor: shown["float"][tensor] for tensor in shared}
    assert all(sqnr_db(shown["half"][tensor], exact[tensor]) > 40 for tensor in shared)
    apart = graphs["half"].apart({tensor: array.shape for tensor, array in exact.items()})
    loaded = session(apart.model)
    wanted = {one.name for one in loaded.get_inputs()}
    fed = feeds | {FED + tensor: array for tensor, array in exact.items()}
    run = loaded.run(list(apart.names.values()), {one: fed[one] for one in wanted})
    for tensor, array in zip(apart.names, run, strict=True):
        assert sqnr_db(array, exact[tensor]) > 50, tensor


@pytest.mark.long
def test_an_imported_file_gets_fp16_that_every_command_takes(tmp_path: Path, edgepipe: Run) -> None:
    made = residual_net()
    onnx.save(made, tmp_path / "net.onnx")
    done = succeeded(edgepipe("import", "net.onnx", "--variant", "fp16"))
    assert "nodes in float16" in done.stderr
    folder = tmp_path / "artifacts" / "net"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["variants"]["fp16"] == {"onnx": "fp16.onnx"}
    (stage,) = (one for one in manifest["stages"] if one["name"] == "fp16")
    assert stage["result"]["halves"] == stage["result"]["nodes"]
    assert 45 < stage["result"]["sqnr_db"] < stage["result"]["weights_sqnr_db"] + 3
    before = (folder / "fp16.onnx").read_bytes()
    assert len(before) < 0.8 * (folder / "fp32.onnx").stat().st_size
    flags = ("--variant", "fp16", "--runner", "ort-cpu", "--runner", "openvino")
    done = succeeded(edgepipe("parity", *flags, "--json"))
    cells = json.loads(done.stdout)["cells"]
    assert [cell["file"] for cell in cells] == ["fp16.onnx"] * 2
    assert {cell["gate"]["min_sqnr_db"] for cell in cells} == {45.0}
    again = succeeded(edgepipe("import", "net.onnx", "--variant", "fp16", "--force"))
    assert "up to date" not in again.stderr
    assert (folder / "fp16.onnx").read_bytes() == before


@pytest.mark.long
def test_a_model_of_integers_alone_has_no_fp16(tmp_path: Path, edgepipe: Run) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    inputs = [helper.make_tensor_value_info("x", INT64, [2, 3])]
    output = helper.make_tensor_value_info("y", INT64, [2, 3])
    file = saved(tmp_path / "whole.onnx", [node], inputs, output)
    done = edgepipe("import", file, "--variant", "fp16")
    said = "fp16: none of its nodes can compute in float16; leave out --variant fp16"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, f"edgepipe: {said}")
    assert not list(tmp_path.glob("artifacts/*/manifest.json"))


def test_what_the_cpu_makes_of_float16_is_probed(tmp_path: Path) -> None:
    made = residual_net()
    onnx.save(HalfGraph(made, {}).written(), tmp_path / "half.onnx")
    onnx.save(made, tmp_path / "float.onnx")
    found = {}
    for name in ("half", "float"):
        loaded = get("ort-cpu").load(tmp_path / f"{name}.onnx", Settings(1))
        found[name] = (loaded.placement.precision, loaded.placement.precision_from)
        loaded.close()
    assert found["float"] == ("f32", "only one")
    assert found["half"][0] in ("f32", "f16")
    assert found["half"][1] == "probed"
