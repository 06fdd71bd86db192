"""Branches that a settled value decides: only the one that is taken is left, and it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.pipeline.intake import fixing, onnx_file

from .files import INT64, saved, value

BOOL = TensorProto.BOOL


def branch(nodes: list[Any], output: str, *constants: Any) -> Any:
    return helper.make_graph(nodes, "branch", [], [value(output, None)], list(constants))


def node(kind: str, *names: str, **attributes: Any) -> Any:
    """An operator: its inputs and, last, its output."""
    return helper.make_node(kind, list(names[:-1]), [names[-1]], **attributes)


def number(name: str, of: float, dtype: str = "f4") -> Any:
    return numpy_helper.from_array(np.array(of, dtype), name)


def inside(times: float) -> Any:
    """A branch with another in it, which the input's own size decides; all names are the same."""
    squeezed = branch([node("Squeeze", "scaled", "first", "less")], "less")
    kept = branch([node("Identity", "scaled", "same")], "same")
    return branch(
        [
            node("Mul", "x", "times", "scaled"),
            node("Shape", "scaled", "sizes"),
            node("Gather", "sizes", "zero", "rows"),
            node("Equal", "rows", "one", "single"),
            node("If", "single", "inner", then_branch=squeezed, else_branch=kept),
            node("Relu", "inner", "out"),
        ],
        "out",
        number("times", times),
    )


def by_rate(path: Path) -> Path:
    """Branches by a sample rate, one by what the other one's condition is not, one by the input."""
    doubled = branch([node("Add", "heard", "heard", "out")], "out")
    halved = branch([node("Mul", "heard", "half", "out")], "out", number("half", 0.5))
    louder = branch([node("Add", "said", "said", "out")], "out")
    return saved(
        path,
        [
            node("Constant", "wide", value=number("", 16000, "i8")),
            node("Equal", "rate", "wide", "is_wide"),
            node("If", "is_wide", "heard", then_branch=inside(3), else_branch=inside(5)),
            node("Cast", "is_wide", "as_number", to=TensorProto.INT32),
            node("Cast", "as_number", "again", to=BOOL),
            node("Not", "again", "is_narrow"),
            node("If", "is_narrow", "said", then_branch=doubled, else_branch=halved),
            node("ReduceMax", "said", "most", keepdims=0),
            node("Greater", "most", "ten", "loud"),
            node(
                "If",
                "loud",
                "y",
                then_branch=louder,
                else_branch=branch([node("Identity", "said", "out")], "out"),
            ),
        ],
        [value("x", [1, 4]), value("rate", [], INT64)],
        value("y", ["length"]),
        first=np.array([0]),
        zero=np.array(0),
        one=np.array(1),
        ten=np.array(10, "f4"),
    )


def answer(model: Any, **feeds: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)
    return np.asarray(found[0])


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_settled_value_leaves_the_branches_that_it_takes(tmp_path: Path, rate: int) -> None:
    file = onnx_file.read(by_rate(tmp_path / "rate.onnx"))
    settled = fixing.fixed(file, {}, {"rate": str(rate)})
    onnx.checker.check_model(settled, full_check=True)
    # What depends on the samples stays: how many rows there are, and how loud they are.
    left = [one.input[0] for one in settled.graph.node if one.op_type == "If"]
    assert len(left) == 2
    assert left[1] == "loud"
    for loud in (1, 100):
        x = loud * np.array([[1, -2, 3, 0.5]], "f4")
        expected = answer(file.model, x=x, rate=np.array(rate))
        np.testing.assert_array_equal(answer(settled, x=x), expected)
    # So that runtimes take it with all their optimizations.
    ort.InferenceSession(settled.SerializeToString())


def test_without_a_settled_value_every_branch_stays(tmp_path: Path) -> None:
    file = onnx_file.read(by_rate(tmp_path / "rate.onnx"))
    assert fixing.fixed(file, {}, {}) is file.model


def test_damaged_conditions_are_left_to_the_runtime(tmp_path: Path) -> None:
    nothing = helper.make_node("If", [], ["y"], then_branch=inside(1))
    file = saved(
        tmp_path / "odd.onnx",
        [node("Equal", "t", "odd"), node("Cast", "t", "no_type"), nothing],
        [value("x", [1, 4]), value("t", [])],
        value("y", None),
    )
    assert len(fixing.fixed(onnx_file.read(file), {}, {"t": "1"}).graph.node) == 3
