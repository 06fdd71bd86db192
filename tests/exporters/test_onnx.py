"""The two ONNX strategies and the exported program: right, repeatable, free of this machine."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgepipe.exporters.base import ExportOptionError, ExportOptions
from edgepipe.exporters.onnx import OnnxDynamo, OnnxTorchScript, save_program, trace

from ..made import contents

EXPORTERS = {exporter.name: exporter for exporter in (OnnxDynamo(), OnnxTorchScript())}


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def example(batch: int = 1) -> tuple[torch.Tensor]:
    return (torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(2)),)


def run(model: bytes, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": images.numpy()})[0])


def file_of(name: str, module: nn.Module, batch: int, options: ExportOptions) -> bytes:
    return contents(EXPORTERS[name].export(module, example(batch), options))[".onnx"]


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_file_gives_torchs_answers(module: nn.Module, name: str, dynamic: bool) -> None:
    options = ExportOptions(opset=18, dynamic_batch=dynamic)
    model = file_of(name, module, 2, options)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    for batch in (1, 2, 5) if dynamic else (2,):
        (images,) = example(batch)
        with torch.inference_mode():
            expected = module(images).numpy()
        np.testing.assert_allclose(run(model, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXPORTERS)
def test_the_opset_is_the_one_asked_for(module: nn.Module, name: str) -> None:
    for opset in (18, 20):
        options = ExportOptions(opset=opset, dynamic_batch=False)
        model = onnx.load_from_string(file_of(name, module, 1, options))
        assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]


def test_an_opset_that_dynamo_would_not_write_is_refused() -> None:
    # torch keeps opset 18 here, and only logs that the conversion failed.
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    with pytest.raises(ExportOptionError, match="can't write opset 13"):
        EXPORTERS["onnx-dynamo"].export(
            Mean().eval(), example(), ExportOptions(opset=13, dynamic_batch=False)
        )


def saved(module: nn.Module, options: ExportOptions) -> io.BytesIO:
    """The exported program as a file, to be read from its beginning."""
    file = io.BytesIO()
    save_program(trace(module, example(), options), options, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("name", [*EXPORTERS, "program"])
def test_two_exports_have_the_same_bytes_and_no_path_in_them(module: nn.Module, name: str) -> None:
    options = ExportOptions(opset=20, dynamic_batch=False)
    if name == "program":
        first, second = (saved(module, options).getvalue() for _ in range(2))
    else:
        first, second = (EXPORTERS[name].export(module, example(), options) for _ in range(2))
    assert first == second
    for folder in (Path(__file__).parents[2], Path(torch.__file__).parent):
        assert str(folder).encode() not in first


@pytest.mark.parametrize("name", EXPORTERS)
def test_an_open_batch_has_a_name(module: nn.Module, name: str) -> None:
    options = ExportOptions(opset=20, dynamic_batch=True)
    made = onnx.load_from_string(file_of(name, module, 2, options))
    values = [*made.graph.input, *made.graph.output]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in values] == ["batch"] * 2


def test_the_program_needs_no_code_of_the_model(module: nn.Module) -> None:
    options = ExportOptions(opset=20, dynamic_batch=False)
    extra = {"io.json": ""}
    program = torch.export.load(saved(module, options), extra_files=extra)
    assert extra["io.json"] == '{"inputs": ["input"], "outputs": ["logits"]}'
    with torch.inference_mode():
        assert torch.equal(program.module()(*example()), module(*example()))
