"""No false alarm: twenty ways to export the same model rightly, and parity passes them all."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import export, parity

# TorchScript's exporter goes up to opset 20, the dynamo one starts at 18.
SHAPES = cycle([(1, True), ("dynamic", True), (1, False), ("dynamic", False), (4, True)])
EXPORTERS = [("onnx-torchscript", opset) for opset in (13, 14, 15, 16, 17, 18, 19, 20)] + [
    ("onnx-dynamo", opset) for opset in (18, 19, 20, 21)
]
REEXPORTS = [
    (*one, *shape) for one, shape in zip([*EXPORTERS, *EXPORTERS[-8:]], SHAPES, strict=False)
]


@pytest.mark.parametrize(("exporter", "opset", "batch", "simplify"), REEXPORTS)
def test_a_correct_export_passes(
    exporter: str, opset: int, batch: Any, simplify: bool, tmp_path: Path
) -> None:
    export(
        workspace=tmp_path,
        input_size=64,
        variants=("fp32",),
        exporter=exporter,
        opset=opset,
        batch=batch,
        simplify=simplify,
    )
    result = parity(workspace=tmp_path, runners=("ort-cpu", "openvino"), samples=16)
    verdicts = {cell.runner: (cell.verdict, cell.reason) for cell in result.cells}
    assert verdicts == {"ort-cpu": ("pass", None), "openvino": ("pass", None)}
