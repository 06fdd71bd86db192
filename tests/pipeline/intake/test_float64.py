"""The operators that a file's float64 reference is computed with, held against torch's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from edgepipe.pipeline.intake.float64 import operators, raise_types
from edgepipe.pipeline.quantization.sessions import session

RANDOM = np.random.default_rng(0)


def evaluated(node: Any, x: np.ndarray, *constants: np.ndarray) -> np.ndarray:
    names = [f"c{place}" for place in range(len(constants))]
    node.input.extend(["x", *names])
    node.output.append("y")
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(*pair) for pair in zip(constants, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    return ReferenceEvaluator(model, new_ops=operators()).run(None, {"x": x})[0]  # pyright: ignore


@pytest.mark.parametrize(
    ("groups", "stride", "dilation", "pad"),
    list(itertools.product((1, 2, 6), (1, 2), (1, 2), (0, 1))),
)
def test_a_convolution_is_torchs(groups: int, stride: int, dilation: int, pad: int) -> None:
    x = RANDOM.normal(size=(2, 6, 11, 9))
    weights, bias = RANDOM.normal(size=(12, 6 // groups, 3, 2)), RANDOM.normal(size=12)
    node = helper.make_node(
        *("Conv", [], []),
        group=groups,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        pads=[pad] * 4,
    )
    tensors = map(torch.from_numpy, (x, weights, bias))
    wanted = functional.conv2d(*tensors, stride, pad, dilation, groups)  # pyright: ignore
    np.testing.assert_allclose(
        evaluated(node, x, weights, bias), wanted.numpy(), rtol=1e-12, atol=1e-12
    )


def test_a_convolution_over_one_dimension_pads_to_the_same_size() -> None:
    x, weights = RANDOM.normal(size=(1, 2, 10)), RANDOM.normal(size=(3, 2, 4))
    node = helper.make_node("Conv", [], [], auto_pad="SAME_UPPER", strides=[2])
    # 5 places of stride 2 see 12 values: one before, two behind... the smaller half in front.
    padded = torch.from_numpy(np.pad(x, ((0, 0), (0, 0), (1, 1))))
    wanted = functional.conv1d(padded, torch.from_numpy(weights), stride=2)
    np.testing.assert_allclose(evaluated(node, x, weights), wanted.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ceil", "inside"), list(itertools.product((False, True), repeat=2)))
def test_pools_are_torchs(ceil: bool, inside: bool) -> None:
    x = RANDOM.normal(size=(1, 3, 10, 7))
    shape: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    average = helper.make_node(
        *("AveragePool", [], []), ceil_mode=int(ceil), count_include_pad=int(inside), **shape
    )
    tensor = torch.from_numpy(x)
    wanted = functional.avg_pool2d(tensor, 3, 2, 1, ceil, inside)
    np.testing.assert_allclose(evaluated(average, x), wanted.numpy(), rtol=1e-12, atol=1e-12)
    largest = helper.make_node("MaxPool", [], [], ceil_mode=int(ceil), **shape)
    wanted = functional.max_pool2d(tensor, 3, 2, 1, ceil_mode=ceil)
    np.testing.assert_array_equal(evaluated(largest, x), wanted.numpy())


def held_against_onnx_runtime(kind: str, inside: int, **shape: Any) -> None:
    """A pool of 9 by 10 pixels, evaluated and run."""
    if kind == "AveragePool":
        shape["count_include_pad"] = inside
    node = helper.make_node(kind, ["x"], ["y"], **shape)
    x = RANDOM.normal(size=(1, 2, 9, 10)).astype("f4")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    ends[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    graph = helper.make_graph([node], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    wanted = session(model, optimize=False).run(None, {"x": x})[0]
    found: Any = ReferenceEvaluator(model, new_ops=operators())  # pyright: ignore
    np.testing.assert_allclose(found.run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("pads", [[1, 0, 1, 1], [0, 0, 2, 2], [1, 1, 1, 1]])
@pytest.mark.parametrize("inside", [0, 1])
def test_pools_end_where_onnx_runtimes_do(kind: str, pads: list[int], inside: int) -> None:
    # No window begins in the padding behind the input, which torch has no such padding for.
    shape: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [3, 3], "pads": pads}
    held_against_onnx_runtime(kind, inside, ceil_mode=1, **shape)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("ceil", [0, 1])
def test_pools_that_pad_by_themselves_are_onnx_runtimes(
    kind: str, auto_pad: str, dilation: int, stride: int, ceil: int
) -> None:
    shape = {"kernel_shape": [3, 3], "strides": [stride] * 2, "dilations": [dilation] * 2}
    for inside in (0, 1):
        held_against_onnx_runtime(kind, inside, auto_pad=auto_pad, ceil_mode=ceil, **shape)


def test_everything_in_float32_is_raised_inner_graphs_included() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "tenth"], ["sum"])],
        "then",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array([0.1], np.float32), "tenth")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner),
            helper.make_node("Cast", ["chosen"], ["y"], to=TensorProto.FLOAT),
        ],
        "outer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    raise_types(model)
    made: Any = ReferenceEvaluator(model)
    (found,) = made.run(None, {"x": np.array([1e-12])})
    assert found.dtype == np.float64
    assert found[0] - np.float64(np.float32(0.1)) == pytest.approx(1e-12, rel=1e-4)
