"""Rewritten quantized files: the same answers to the bit where that is claimed, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from edgepipe.pipeline.intake import repair
from edgepipe.pipeline.intake.quantized import quantization_of, troubles
from edgepipe.pipeline.intake.repairing import repairs_of
from edgepipe.pipeline.quantization.qdq import worst_of_layers
from edgepipe.pipeline.quantization.sessions import session

from ..quantization.nets import residual_net

TYPES = {"S8": QuantType.QInt8, "U8": QuantType.QUInt8}
SHAPE = (1, 3, 12, 12)


class Images(CalibrationDataReader):
    def __init__(self, count: int = 8) -> None:
        random = np.random.default_rng(1)
        self.every = [{"input": random.normal(size=SHAPE).astype("f4")} for _ in range(count)]
        self._left = iter(self.every)

    def get_next(self) -> Any:
        return next(self._left, None)


def quantized(
    folder: Path, activations: str, weights: str, style: QuantFormat = QuantFormat.QDQ, **more: Any
) -> Any:
    """The residual net as ``quantize_static`` makes int8 of it."""
    onnx.save(residual_net(), folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Images(),
        quant_format=style,
        activation_type=TYPES[activations],
        weight_type=TYPES[weights],
        **more,
    )
    return onnx.load(folder / "int8.onnx")


def answers(model: Any, *, optimize: bool) -> np.ndarray:
    run = session(model, optimize=optimize).run
    return np.concatenate([run(None, feeds)[0] for feeds in Images().every])


@pytest.mark.parametrize("style", [QuantFormat.QDQ, QuantFormat.QOperator], ids=str)
def test_int8_activations_become_uint8_and_no_answer_moves_by_a_bit(
    tmp_path: Path, style: QuantFormat
) -> None:
    model = quantized(tmp_path, "S8", "S8", style)
    made = repair.unsigned(model)
    assert made.exact
    assert len(made.done) == 1
    onnx.checker.check_model(made.model, full_check=True)
    found = quantization_of(made.model)
    assert found
    assert set(found.activations) == {"uint8"}
    np.testing.assert_array_equal(
        answers(made.model, optimize=False), answers(model, optimize=False)
    )


def test_uint8_weights_become_int8_without_a_bit_moved(tmp_path: Path) -> None:
    model = quantized(tmp_path, "U8", "U8")
    made = repair.unsigned(model)
    found = quantization_of(made.model)
    assert found
    assert set(found.weights) == {"int8"}
    np.testing.assert_array_equal(
        answers(made.model, optimize=False), answers(model, optimize=False)
    )


def small(nodes: list[Any], kind: int = TensorProto.FLOAT, **constants: np.ndarray) -> Any:
    """``x`` [1, 4] to ``y``; a scale and zero points are there."""
    every = {"s": np.float32(0.05), "z": np.int8(-3), "u": np.uint8(120), **constants}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in every.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, reads: str, gives: str, **attributes: Any) -> Any:
    return helper.make_node(kind, reads.split(), gives.split(), gives, **attributes)


QUANTIZED, BACK = node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "m s z", "y")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (small([node("DequantizeLinear", "x s z", "y")], TensorProto.INT8), "x is int8 before"),
        (
            small([QUANTIZED, node("Pad", "q p z", "m"), BACK], p=np.array([0, 1, 0, 1])),
            "goes through Pad",
        ),
        (
            small([QUANTIZED, node("Where", "c q q", "m"), BACK], c=np.array(True)),
            "goes through Where",
        ),
        (
            small(
                [QUANTIZED, node("Concat", "t q", "m", axis=1), BACK], t=np.ones((1, 2), np.int8)
            ),
            "goes through Concat",
        ),
        (
            small([QUANTIZED, node("DequantizeLinear", "q s", "y")]),
            "goes through DequantizeLinear",
        ),
        (
            small(
                [
                    node("Cast", "x", "i", to=TensorProto.INT64),
                    node("Gather", "table i", "m"),
                    BACK,
                ],
                table=np.ones((4, 2), np.int8),
            ),
            "m is int8 before",
        ),
    ],
)
def test_int8_whose_way_is_not_known_stays(model: Any, told: str) -> None:
    with pytest.raises(repair.CanNotRepair, match=told):
        repair.unsigned(model)


def test_zero_points_of_constant_nodes_move_as_well() -> None:
    zero = numpy_helper.from_array(np.array(-3, np.int8), "")
    model = small(
        [
            helper.make_node("Constant", [], ["k"], value=zero),
            node("QuantizeLinear", "x s k", "q"),
            node("Concat", "q q", "m", axis=1),
            node("DequantizeLinear", "m s k", "y"),
        ]
    )
    made = repair.unsigned(model)
    assert made.done
    feeds = {"x": np.linspace(-9, 9, 4, dtype="f4")[None]}
    before, after = (session(one).run(None, feeds)[0] for one in (model, made.model))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("second", "moved"), [("w s u", "int8"), ("w s", "uint8")])
def test_a_weight_that_is_read_without_a_zero_point_stays(second: str, moved: str) -> None:
    model = small(
        [
            node("DequantizeLinear", "w s u", "a"),
            node("DequantizeLinear", second, "b"),
            node("MatMul", "x a", "c"),
            node("MatMul", "x b", "d"),
            node("Add", "c d", "y"),
        ],
        w=np.arange(8, dtype=np.uint8).reshape(4, 2) * 30,
    )
    made = repair.unsigned(model)
    found = quantization_of(made.model)
    assert found
    assert dict(found.weights) == {moved: 1}
    feeds = {"x": np.ones((1, 4), "f4")}
    before, after = (session(one).run(None, feeds)[0] for one in (model, made.model))
    np.testing.assert_array_equal(before, after)


def test_a_sound_file_is_left_alone(tmp_path: Path) -> None:
    model = quantized(tmp_path, "U8", "S8", per_channel=True)
    assert repair.unsigned(model).done == ()


def test_pairs_between_float_operators_go_and_no_other(tmp_path: Path) -> None:
    # Pools in int8 between convolutions in float: what they pass on was quantized for nothing.
    kept = quantized(tmp_path, "U8", "S8", per_channel=True, op_types_to_quantize=["Relu", "Add"])
    assert repairs_of(kept) is None  # its one pair goes into an Add as well, which runs in int8
    model = quantized(tmp_path, "U8", "S8", per_channel=True)
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale, zero = first.input[1:3]
    last = model.graph.node[-1]
    wanted = last.output[0]
    last.output[0] = "raw"
    model.graph.node.extend(
        (
            helper.make_node("Erf", ["raw"], ["shares"], "first erf"),
            helper.make_node("QuantizeLinear", ["shares", scale, zero], ["q"], "pair/q"),
            helper.make_node("DequantizeLinear", ["q", scale, zero], ["back"], "pair/dq"),
            helper.make_node("Erf", ["back"], [wanted], "erf"),
        )
    )
    made = repairs_of(model)
    assert made
    assert not made.exact
    assert made.done == ("1 pair between operators in float is gone",)
    names = [node.name for node in onnx.load_from_string(made.data).graph.node]
    assert len(names) == len(model.graph.node) - 2
    assert "pair/q" not in names


def test_a_scale_that_is_a_list_of_one_is_one(tmp_path: Path) -> None:
    # As NNCF writes them.
    model = quantized(tmp_path, "U8", "S8", per_channel=True)
    before = worst_of_layers(model)
    for tensor in model.graph.initializer:
        if not tensor.dims and "weight" not in tensor.name:
            tensor.dims.append(1)
    assert before
    assert worst_of_layers(model) == before


@pytest.mark.parametrize(
    ("activations", "weights", "more", "kind"),
    [
        ("S8", "S8", {"per_channel": True}, "signed-activations"),
        ("U8", "U8", {"per_channel": True}, "unsigned-weights"),
        ("U8", "S8", {}, "per-tensor"),
    ],
)
def test_what_makes_a_file_slow_is_named(
    tmp_path: Path, activations: str, weights: str, more: Mapping[str, Any], kind: str
) -> None:
    model = quantized(tmp_path, activations, weights, **more)
    assert kind in [found.kind for found in troubles(model)]


def test_a_file_that_edgepipe_would_make_has_no_troubles(tmp_path: Path) -> None:
    assert list(troubles(quantized(tmp_path, "U8", "S8", per_channel=True))) == []


def kinds(model: Any) -> dict[str, int]:
    """The operators that ONNX Runtime executes."""
    import collections
    import tempfile

    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        graph = onnx.load(options.optimized_model_filepath).graph
    return dict(collections.Counter(node.op_type for node in graph.node))


def test_operators_in_integers_need_a_reference(tmp_path: Path) -> None:
    model = quantized(tmp_path, "S8", "S8", QuantFormat.QOperator)
    made = repairs_of(model)
    assert made
    assert not made.exact
    with pytest.raises(repair.CanNotRepair, match="--reference names a float model"):
        repairs_of(model, referenced=False)
