"""What is rewritten before it is quantized: HardSwish, and squeeze-and-excitation's means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.pipeline.quantization import recipes
from edgepipe.pipeline.quantization.draft import Data, Draft, with_hard_swish, with_pools
from edgepipe.pipeline.quantization.histograms import Collector
from edgepipe.pipeline.quantization.operations import first_nodes
from edgepipe.pipeline.quantization.qdq import QdqGraph, write
from edgepipe.pipeline.quantization.sessions import all_tensors, session, with_outputs
from edgepipe.pipeline.stages import graphs
from edgepipe.pipeline.stages.native import prepare

from .nets import Made, made, residual_net

# What convolutions in int8 give to HardSwish.
BEFORE = ("expand.out", "depthwise.out", "head.out")


def prepared(model: Any, folder: Path) -> Any:
    """A model as the worker prepares it for the quantizer."""
    source, output = folder / "source.onnx", folder / "prepared.onnx"
    onnx.save(model, source)
    prepare({"source": str(source), "output": str(output)}, {})
    return onnx.load(output)


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Made:

    model = residual_net("HardSwish", spread=0.5)
    return made(prepared(model, tmp_path_factory.mktemp("net")))


def by(net: Made, recipe: str) -> Any:
    draft = net.draft
    for step in recipe.split(","):
        draft = recipes.get(step).apply(draft, net.data)
    return write(draft)


def test_hard_swish_is_prepared_as_one_and_gives_the_same(net: Made, tmp_path: Path) -> None:
    found = operators(net.draft.model)
    assert (found["HardSwish"], found["HardSigmoid"], found["Mul"]) == (4, 0, 0)
    model = residual_net("HardSwish", spread=0.5)
    answers = [session(one).run(None, dict(net.held_out[0]))[0] for one in (model, net.draft.model)]
    assert np.allclose(*answers, rtol=1e-4, atol=1e-5)


def test_what_a_float_convolution_gives_to_it_is_not_rounded(net: Made) -> None:
    int8 = by(net, "min-max")
    assert operators(int8)["HardSwish"] == 4
    (behind,) = [node for node in int8.graph.node if "stem.out" in node.input]
    assert behind.op_type == "HardSwish"


def step_and_zero(int8: Any, tensor: str) -> tuple[float, int]:
    """The size of a step of a tensor's quantized form, and which one of its steps is zero."""
    (node,) = [
        one
        for one in int8.graph.node
        if one.op_type == "QuantizeLinear" and one.input[0].startswith(tensor)
    ]
    graph = QdqGraph(int8)
    return float(graph.constant(node.input[1])), int(graph.constant(node.input[2]))


@pytest.mark.parametrize("method", ["min-max", "least-squares", "percentile"])
def test_no_step_is_spent_on_values_that_hard_swish_makes_zero(net: Made, method: str) -> None:
    int8 = by(net, method)
    inner = session(with_outputs(net.draft.model, BEFORE))
    values = inner.run(None, dict(net.data.samples[0]))
    for tensor, array in zip(BEFORE, values, strict=True):
        step, zero = step_and_zero(int8, tensor)
        assert array.min() < -3 - step
        assert 1 <= zero <= np.rint(3 / step)


def gated(
    beta: float = 0.5, *, alpha: float = 1 / 6, opset: int = 20, watched: bool = False
) -> Any:
    """``x * HardSigmoid(x)``, whose factor is an output, too, if it is ``watched``."""
    nodes = [
        helper.make_node("HardSigmoid", ["x"], ["gate"], alpha=alpha, beta=beta),
        helper.make_node("Mul", ["gate", "x"], ["y"], "product"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])
        for name in ("x", "y", *(["gate"] if watched else []))
    ]
    graph = helper.make_graph(nodes, "gated", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_it_is_put_together_again() -> None:
    found = with_hard_swish(gated())
    assert [(node.op_type, node.name) for node in found.graph.node] == [("HardSwish", "product")]
    onnx.checker.check_model(found)


@pytest.mark.parametrize(
    "other", [gated(0.4), gated(alpha=0.2), gated(opset=13), gated(watched=True)]
)
def test_what_is_no_hard_swish_stays(other: Any) -> None:
    assert with_hard_swish(other) == other


def excited(axes: Sequence[int], *, keeps: int = 1, rank: int = 4, opset: int = 20) -> Any:
    """A convolution whose channels are weighed by a function of their means."""
    constants = [
        numpy_helper.from_array(np.eye(4, dtype=np.float32).reshape(4, 4, *[1] * (rank - 2)), "w"),
        numpy_helper.from_array(np.array(axes, np.int64), "axes"),
    ]
    since_18 = opset >= 18
    attributes: dict[str, Any] = {} if since_18 else {"axes": list(axes)}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["x"], "first"),
        helper.make_node("Conv", ["x", "w"], ["map"], "second"),
        helper.make_node(
            "ReduceMean",
            ["map", *["axes"] * since_18],
            ["means"],
            "mean",
            keepdims=keeps,
            **attributes,
        ),
        helper.make_node("Sigmoid", ["means"], ["gate"], "gate"),
        helper.make_node("Mul", ["map", "gate"], ["y"], "weigh"),
    ]
    shape = [1, 4, *[6] * (rank - 2)]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "y")
    ]
    graph = helper.make_graph(nodes, "excited", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("model", [excited((2, 3)), excited((-1, -2)), excited((2, 3), opset=13)])
def test_means_of_maps_run_in_int8(model: Any, tmp_path: Path) -> None:
    found = prepared(model, tmp_path)
    assert operators(found)["GlobalAveragePool"] == 1
    feeds = {"input": np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)}
    answers = [session(one).run(None, feeds)[0] for one in (model, found)]
    assert np.allclose(*answers, rtol=1e-5, atol=1e-6)
    collector = Collector(1)
    collector.take({**all_tensors(found)(feeds), **feeds}, 1)
    draft = Draft(found, floats=frozenset(first_nodes(found.graph)))
    path = tmp_path / "int8.onnx"
    onnx.save(write(recipes.get("min-max").apply(draft, Data(collector.done(), [feeds]))), path)
    kinds = Counter(node.op_type for node in graphs.optimized(path).node)
    assert kinds["QLinearGlobalAveragePool"] == 1, kinds


@pytest.mark.parametrize(
    "other",
    [excited((2,)), excited((1, 2)), excited((2, 3), keeps=0), excited((2, 3), rank=5)],
)
def test_other_means_stay(other: Any) -> None:
    inferred = onnx.shape_inference.infer_shapes(other)
    assert with_pools(inferred) == inferred
