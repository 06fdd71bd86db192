"""A module after a quantization-aware training: its file quantizes where the training did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepipe.pipeline.stages.graphs import optimized

Run = Callable[..., CompletedProcess[str]]
NETS = """
import warnings

import torch
from torch import nn
from torch.ao import quantization

warnings.simplefilter("ignore")


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
FLAGS = ("--input-size", "32", "--preprocessing", "none", "--calibration", "synthetic")


@pytest.fixture
def export(edgepipe: Run, tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    (tmp_path / "nets.py").write_text(NETS)
    return lambda *flags: edgepipe("export", *flags, *FLAGS)


def model_of(tmp_path: Path, name: str, file: str) -> onnx.ModelProto:
    return onnx.load(tmp_path / "artifacts" / name / file)


def manifest_of(tmp_path: Path, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / "artifacts" / name / "manifest.json").read_text())


def test_its_file_is_qdq_with_weights_as_integers(
    export: Callable[..., CompletedProcess[str]], edgepipe: Run, tmp_path: Path
) -> None:
    done = export("nets:qat", "--variant", "fp32")
    assert done.returncode == 0, done.stderr
    assert "quantized as QDQ" in done.stderr
    manifest = manifest_of(tmp_path, "qat")
    assert manifest["stages"][0]["result"]["quantized"] == "QDQ"
    assert manifest["model"]["quantized"] == "QDQ"
    for file in ("exported.onnx", "fp32.onnx"):
        graph = model_of(tmp_path, "qat", file).graph
        kept = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        integers = [one.shape for one in kept.values() if one.dtype == np.int8 and one.ndim > 1]
        assert sorted(integers) == [(5, 32), (16, 3, 3, 3), (32, 16, 3, 3)]
        assert not [one for one in kept.values() if one.dtype == np.float32 and one.ndim > 1]
        quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        assert len(quantized) == 4  # the input, and what each layer gives
    kernels = {node.op_type for node in optimized(tmp_path / "artifacts/qat/fp32.onnx").node}
    assert "QLinearConv" in kernels
    assert "Conv" not in kernels
    runners = ("--runner", "ort-cpu", "--runner", "openvino", "--runner", "torch")
    judged = edgepipe("parity", *runners, "--json")
    cells = json.loads(judged.stdout)["cells"]
    assert [cell["verdict"] for cell in cells] == ["pass"] * 3, judged.stdout


def test_it_is_not_quantized_twice(
    export: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    done = export("nets:qat")
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (
        "edgepipe: int8, int8-avx2: nets:qat is quantized already (QDQ): use --variant fp32, "
        "which is the model as it was trained"
    )
    assert not (tmp_path / "artifacts/qat/manifest.json").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("nets:qat", "--arg", "seen=false"), "has seen no data, so it has no range"),
        (("nets:ptq",), "collects ranges (torch.ao.quantization.prepare) and quantizes nothing"),
    ],
)
def test_what_has_no_ranges_is_refused_in_one_line(
    flags: tuple[str, ...], says: str, export: Callable[..., CompletedProcess[str]]
) -> None:
    done = export(*flags, "--variant", "fp32")
    assert done.returncode == 3, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_the_older_exporter_and_observers_that_still_collect(
    export: Callable[..., CompletedProcess[str]], edgepipe: Run, tmp_path: Path
) -> None:
    older = ("--exporter", "onnx-torchscript", "--opset", "17", "--batch", "dynamic")
    more = ("--arg", "frozen=false", "--format", "openvino-ir", "--fold-preprocessing")
    done = export("nets:qat", *older, *more, "--variant", "fp32")
    assert done.returncode == 0, done.stderr
    assert "warning: nets:qat: 7 observers still collect ranges: fixed as they are" in done.stderr
    graph = model_of(tmp_path, "qat", "fp32.onnx").graph
    kept = [numpy_helper.to_array(one) for one in graph.initializer]
    assert len([one for one in kept if one.dtype == np.int8 and one.ndim > 1]) == 3
    judged = edgepipe("parity", "--runner", "ort-cpu", "--runner", "openvino", "--json")
    cells = json.loads(judged.stdout)["cells"]
    assert [cell["verdict"] for cell in cells] == ["pass"] * 2, judged.stdout
