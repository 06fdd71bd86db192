"""A module after a quantization-aware training: its file quantizes where the training did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepipe.exporters.base import ModelError
from edgepipe.pipeline import export, package, parity
from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.progress import Silent
from edgepipe.pipeline.stages.graphs import optimized

# torch.ao says on each call that it has moved to torchao, to the user's own code.
pytestmark = pytest.mark.filterwarnings("ignore")
NETS = """
import torch
from torch import nn
from torch.ao import quantization


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()
        self.more, self.more_norm = nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.more_norm(self.more(self.relu(self.norm(self.conv(self.quant(x))))))
        return self.dequant(self.head(x.mean((2, 3))))


def qat(frozen=True, seen=True):
    net = Net().train()
    net.qconfig = quantization.get_default_qat_qconfig("x86")
    fused = [["conv", "norm", "relu"], ["more", "more_norm"]]
    quantization.fuse_modules_qat(net, fused, inplace=True)
    quantization.prepare_qat(net, inplace=True)
    for _ in range(3 if seen else 0):
        net(torch.rand(8, 3, 32, 32))
    if frozen:
        net.apply(quantization.disable_observer)
    return net


def ptq():
    net = Net().eval()
    net.qconfig = quantization.get_default_qconfig("x86")
    return quantization.prepare(net)
"""
SETTINGS: dict[str, Any] = {
    "input_size": 32,
    "preprocessing": "none",
    "calibration": "synthetic",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "qat_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def initializers(file: Path) -> list[np.ndarray]:
    """The weights of a file, without biases, scales and the like."""
    every = map(numpy_helper.to_array, onnx.load(file).graph.initializer)
    return [array for array in every if array.ndim > 1]


def verdicts(*runners: str) -> list[str | None]:
    return [cell.verdict for cell in parity(runners=runners).cells]


def test_its_file_is_qdq_with_weights_as_integers(folder: Path) -> None:
    made = export("qat_nets:qat", **SETTINGS)
    stage = made.stage("export")
    assert stage
    assert (stage.result["quantized"], made.model["quantized"]) == ("QDQ", "QDQ")
    assert set(made.variants) == {"given"}
    for name in ("exported.onnx", "given.onnx"):
        file = folder / "artifacts/qat" / name
        found = {one.shape: one.dtype.name for one in initializers(file)}
        assert found == {(5, 32): "int8", (16, 3, 3, 3): "int8", (32, 16, 3, 3): "int8"}
        operators = [node.op_type for node in onnx.load(file).graph.node]
        assert operators.count("QuantizeLinear") == 4  # the input, and what each layer gives
    kernels = {node.op_type for node in optimized(folder / "artifacts/qat/given.onnx").node}
    assert "QLinearConv" in kernels
    assert "Conv" not in kernels
    assert verdicts("ort-cpu", "openvino", "torch") == ["pass"] * 3
    assert list(package().bundle.variants) == ["given"]


def test_it_is_not_quantized_twice(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export("qat_nets:qat", **{**SETTINGS, "variants": ("fp32", "int8")})
    assert str(caught.value) == (
        "int8: qat_nets:qat is quantized already (QDQ), and is kept as it was trained: as given"
    )
    assert not (folder / "artifacts/qat/manifest.json").exists()


@pytest.mark.parametrize(
    ("reference", "arguments", "says"),
    [
        ("qat_nets:qat", ("seen=false",), "has seen no data, so it has no range"),
        ("qat_nets:ptq", (), "collects ranges (torch.ao.quantization.prepare) and quantizes"),
    ],
)
def test_what_has_no_ranges_is_refused(
    reference: str, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ModelError) as caught:
        export(reference, args=arguments, **SETTINGS)
    assert str(caught.value).startswith(f"{reference}: ")
    assert says in str(caught.value)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.long
def test_the_older_exporter_and_observers_that_still_collect(folder: Path) -> None:
    progress = Heard()
    export(
        "qat_nets:qat",
        args=("frozen=false",),
        exporter="onnx-torchscript",
        opset=17,
        batch="dynamic",
        formats=("onnx", "openvino-ir"),
        fold_preprocessing=True,
        progress=progress,
        **SETTINGS,
    )
    note = "warning: qat_nets:qat: 7 observers still collect ranges: fixed as they are now"
    assert any(line.startswith(note) for line in progress.lines)
    found = initializers(folder / "artifacts/qat/given.onnx")
    assert len([one for one in found if one.dtype == np.int8]) == 3
    assert verdicts("ort-cpu", "openvino") == ["pass"] * 2
