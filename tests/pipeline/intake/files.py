"""Small ONNX files, and how a command on them is to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def saved(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    *outputs: Any,
    **constants: Any,
) -> Path:
    """A file of operators, its constants by name."""
    tensors = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="a friend"
    )
    onnx.save(model, path)
    return path


def product(path: Path, shape: Sequence[int | str | None] = ("n", 16)) -> Path:
    """A product with a matrix, ``x`` by ``w``."""
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype("f4")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return saved(path, [node], [value("x", shape)], value("y", [shape[0], 3]), w=weights)


def succeeded(done: CompletedProcess[str]) -> CompletedProcess[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def refused(done: CompletedProcess[str], code: int, text: str) -> None:
    """One line behind the warnings, that says ``text``."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, done.stderr
    assert text in lines[0]
