"""Files and flags that no one expects: each taken rightly, or refused in a line that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper

from edgepipe.pipeline.errors import EdgepipeError, InputError, UsageError
from edgepipe.pipeline.intake import fixing, onnx_file
from edgepipe.pipeline.intake.import_model import import_model
from edgepipe.pipeline.stages.native import Native, prepared
from edgepipe.pipeline.storage.workspace import Workspace

from .files import INT64, product, refused, saved, succeeded, value

Run = Callable[..., CompletedProcess[str]]


def settled(path: Path, sizes: dict[str, int], values: dict[str, str]) -> np.ndarray:
    """The constant that the only value becomes."""
    model = fixing.fixed(onnx_file.read(path), sizes, values)
    (name,) = values
    return next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == name)


def threshold(path: Path, kind: int = TensorProto.FLOAT) -> Path:
    return saved(
        path,
        [helper.make_node("Cast", ["t"], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"])],
        [value("x", [1, 4]), value("t", [], kind)],
        value("y", [1, 4]),
    )


@pytest.mark.parametrize("text", ["0.1", "1e-3", "16000", "1e30"])
def test_a_float_value_is_rounded_as_the_input_holds_it(tmp_path: Path, text: str) -> None:
    found = settled(threshold(tmp_path / "t.onnx"), {}, {"t": text})
    assert found == np.float32(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((TensorProto.FLOAT, one) for one in ("1e39", "1e400", "NaN", "{}", "null", '"a"')),
        *((TensorProto.FLOAT, one) for one in ("1" + "0" * 400, "[" * 3000, "[1, 2]")),
        (INT64, "0.5"),
        (INT64, "1e30"),
        (TensorProto.BOOL, "2"),
        (TensorProto.STRING, "1"),
    ],
)
def test_a_value_that_the_input_cannot_hold_is_refused(
    tmp_path: Path, kind: int, text: str
) -> None:
    with pytest.raises(UsageError, match="value: t") as told:
        settled(threshold(tmp_path / "t.onnx", kind), {}, {"t": text})
    assert len(str(told.value)) < 200


def state(path: Path, shape: list[int | str] | None) -> Path:
    return saved(
        path,
        [
            helper.make_node("ReduceSum", ["s"], ["t"], keepdims=0),
            helper.make_node("Add", ["x", "t"], ["y"]),
        ],
        [value("x", [1, 4]), value("s", shape)],
        value("y", [1, 4]),
    )


def test_a_value_needs_sizes_and_does_not_become_empty(tmp_path: Path) -> None:
    file = state(tmp_path / "s.onnx", ["k", 4])
    with pytest.raises(UsageError, match=r"s float32 \[k, 4\] leaves sizes open"):
        settled(file, {}, {"s": "1"})
    assert settled(file, {"k": 3}, {"s": "1"}).shape == (3, 4)
    huge = state(tmp_path / "huge.onnx", [100_000, 1_000_000])
    with pytest.raises(UsageError, match="too many for a constant"):
        settled(huge, {}, {"s": "1"})


def test_an_input_of_unknown_shape_takes_its_values(tmp_path: Path) -> None:
    file = state(tmp_path / "s.onnx", None)
    with pytest.raises(InputError, match="not even how many dimensions"):
        import_model(file, workspace=tmp_path / "a")
    assert settled(file, {}, {"s": "[[1, 2]]"}).shape == (1, 2)


@pytest.mark.parametrize(
    ("dims", "told"),
    [
        (("x.1=15",), "x.1=15, but it is 16"),
        (("n=1", "n=2"), "n is said twice, 1 and 2"),
        (("y.1=3",), "has no 'y.1'"),
        (("n=999999999",), "is too large"),
    ],
)
def test_sizes_that_contradict_the_file_are_refused(
    tmp_path: Path, dims: tuple[str, ...], told: str
) -> None:
    file = product(tmp_path / "p.onnx")
    with pytest.raises(EdgepipeError, match=told):
        import_model(file, workspace=tmp_path / "a", dims=dims)
    assert not (tmp_path / "a").exists()


def test_a_file_that_cannot_be_fed_says_so(tmp_path: Path, edgepipe: Run) -> None:
    node = helper.make_node("MatMul", ["v", "w"], ["y"])
    ones = np.ones((3, 3), "f4")
    file = saved(tmp_path / "none.onnx", [node], [], value("y", [3, 3]), v=ones, w=ones)
    refused(edgepipe("import", file), 3, "it has no inputs")
    refused(edgepipe("import", product(tmp_path / "zero.onnx", (0, 16))), 3, "no values at all")
    wide = saved(
        tmp_path / "wide.onnx",
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [value("x", ["n", 1_000_000, 1_000_000])],
        value("y", []),
    )
    refused(edgepipe("import", wide), 3, "x float32 [n, 1000000, 1000000] is too large")


def test_the_file_that_cannot_be_run_is_named_as_the_user_does(
    tmp_path: Path, edgepipe: Run
) -> None:
    file = product(tmp_path / "mine.onnx")
    model = load(file)
    model.graph.node[0].input[1] = "x"
    (tmp_path / "mine.onnx").write_bytes(model.SerializeToString())
    refused(edgepipe("import", "mine.onnx", "--dim", "n=2"), 3, "mine.onnx: ONNX Runtime can't run")


@pytest.mark.long
def test_outputs_of_integers_and_booleans_are_judged(tmp_path: Path, edgepipe: Run) -> None:
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype("f4")
    file = saved(
        tmp_path / "places.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["s"]),
            helper.make_node("ArgMax", ["s"], ["place"], axis=1, keepdims=0),
            helper.make_node("Greater", ["s", "zero"], ["above"]),
        ],
        [value("x", ["n", 16])],
        value("place", ["n"], INT64),
        value("above", ["n", 3], TensorProto.BOOL),
        w=weights,
        zero=np.float32(0),
    )
    succeeded(edgepipe("import", file))
    shown = succeeded(edgepipe("parity", "--runner", "ort-cpu", "--runner", "openvino"))
    assert shown.stdout.count("equal") >= 2


@pytest.mark.parametrize("command", ["import", "inspect"])
def test_a_constant_without_its_values_is_refused(
    tmp_path: Path, edgepipe: Run, command: str
) -> None:
    file = product(tmp_path / "p.onnx")
    model = load(file)
    model.graph.initializer[0].dims[0] = 1_000_000_000
    file.write_bytes(model.SerializeToString())
    refused(edgepipe(command, file), 3, "p.onnx: constant w can't be read")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = product(tmp_path / "p.onnx")
    file.write_bytes(file.read_bytes().replace(b"MatMul", b"Mat\xfful"))
    with pytest.raises(InputError, match="is no text"):
        onnx_file.read(file)


def test_a_product_without_a_bias_becomes_int8(tmp_path: Path, edgepipe: Run) -> None:
    file = product(tmp_path / "p.onnx")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(32, 16)).astype("f4"))
    done = succeeded(edgepipe("import", file, "--data", "d.npz", "--variant", "int8"))
    assert "int8" in done.stdout


@pytest.mark.long
def test_branches_take_part_in_int8(tmp_path: Path, edgepipe: Run) -> None:
    branches: dict[str, Any] = {
        f"{branch}_branch": helper.make_graph(
            [helper.make_node("Mul", ["m", factor], [branch])], branch, [], [value(branch, None)]
        )
        for branch, factor in (("then", "two"), ("else", "ten"))
    }
    file = saved(
        tmp_path / "branches.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("ReduceSum", ["m"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["above"]),
            helper.make_node("If", ["above"], ["y"], **branches),
        ],
        [value("x", [1, 16])],
        value("y", [1, 3]),
        w=np.random.default_rng(0).normal(size=(16, 3)).astype("f4"),
        **{name: np.float32(number) for name, number in (("two", 2), ("ten", 10), ("zero", 0))},
    )
    succeeded(edgepipe("import", file, "--calibration", "synthetic", "--variant", "int8"))


def test_an_output_without_values_is_refused(tmp_path: Path, edgepipe: Run) -> None:
    file = saved(
        tmp_path / "nothing.onnx",
        [helper.make_node("Slice", ["x", "zero", "zero", "one"], ["y"])],
        [value("x", ["n", 4])],
        value("y", ["n", 0]),
        zero=np.array([0]),
        one=np.array([1]),
    )
    refused(edgepipe("import", file), 3, "nothing.onnx: its output y is [64, 0]: no values")


@pytest.mark.long
def test_a_name_with_a_space_is_found_again(tmp_path: Path, edgepipe: Run) -> None:
    table = np.zeros((1_234_568, 1), "f4")
    table[-1] = 1
    file = saved(
        tmp_path / "words.onnx",
        [
            helper.make_node("Gather", ["table", "my words"], ["v"]),
            helper.make_node("ReduceSum", ["v"], ["y"], keepdims=0),
        ],
        [value("my words", [1, 4], INT64)],
        value("y", []),
        table=table,
    )
    # Its answer has no batch in front either.
    succeeded(edgepipe("import", file, "--calibration", "synthetic", "--variant", "int8"))
    succeeded(edgepipe("quantize", "--recipe", "minmax"))


def test_a_pyramid_of_an_open_batch_becomes_int8(tmp_path: Path) -> None:
    """Feature maps resized and added: symbols of the batch don't meet, its sizes do."""
    random = np.random.default_rng(0)
    file = saved(
        tmp_path / "pyramid.onnx",
        [
            helper.make_node("Conv", ["x", "w1"], ["fine"], pads=[1] * 4),
            helper.make_node("Conv", ["fine", "w2"], ["coarse"], pads=[1] * 4, strides=[2, 2]),
            helper.make_node("Resize", ["coarse", "", "scales"], ["raised"], mode="nearest"),
            helper.make_node("Add", ["fine", "raised"], ["y"]),
        ],
        [value("x", ["n", 3, 16, 16])],
        value("y", ["n", 4, 16, 16]),
        w1=random.normal(size=(4, 3, 3, 3)).astype("f4"),
        w2=random.normal(size=(4, 4, 3, 3)).astype("f4"),
        scales=np.array([1, 1, 2, 2], "f4"),
    )
    said: list[str] = []
    with Native() as native, prepared(native, file, said.append) as model:
        shapes = {one.name: one.type.tensor_type.shape.dim for one in load(model).graph.value_info}
        assert [side.dim_value for side in shapes["raised"]][1:] == [4, 16, 16]
    assert said == [
        "warning: sizes are inferred without the names of open ones: "
        "Exception: Incomplete symbolic shape inference"
    ]


def test_activations_that_are_no_numbers_cost_the_int8_alone(tmp_path: Path, edgepipe: Run) -> None:
    file = saved(
        tmp_path / "log.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["raw"]),
            helper.make_node("Log", ["raw"], ["log"]),
            helper.make_node("IsNaN", ["log"], ["bad"]),
            helper.make_node("Where", ["bad", "raw", "log"], ["y"]),
        ],
        [value("x", ["n", 16])],
        value("y", ["n", 3]),
        w=np.random.default_rng(0).normal(size=(16, 3)).astype("f4"),
    )
    done = edgepipe("import", file, "--calibration", "synthetic", "--quiet")
    refused(done, 3, "int8, int8-avx2 not made: the calibration images give activations that are")
    assert done.stderr.endswith("artifacts/log has fp32\n")
    assert set(Workspace(tmp_path / "artifacts", "log").verified().variants) == {"fp32"}
