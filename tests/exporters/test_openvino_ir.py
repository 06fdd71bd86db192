"""OpenVINO IR: torch's answers, the names and shapes asked for, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from edgepipe.exporters.base import ExportOptionError, ExportOptions
from edgepipe.exporters.openvino_ir import OpenVinoIr

from ..made import contents

STATIC = ExportOptions(opset=20, dynamic_batch=False)
MAKE = """
import torch
from torch import nn

torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.BatchNorm2d(8),
    nn.ReLU6(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 5),
).eval()
"""


def module() -> nn.Module:
    namespace: dict[str, nn.Module] = {}
    exec(MAKE, namespace)
    return namespace["module"]


def example(batch: int = 1) -> tuple[torch.Tensor]:
    return (torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(2)),)


def compiled(folder: Path, files: Mapping[str, bytes]) -> openvino.CompiledModel:
    for suffix, data in files.items():
        (folder / f"model{suffix}").write_bytes(data)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(folder / "model.xml", "CPU", exact)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_files_give_torchs_answers(tmp_path: Path, dynamic: bool) -> None:
    network, options = module(), ExportOptions(opset=20, dynamic_batch=dynamic)
    model = compiled(tmp_path, contents(OpenVinoIr().export(network, example(2), options)))
    shape = model.input("input").partial_shape
    assert str(shape) == ("[?,3,16,16]" if dynamic else "[2,3,16,16]")
    assert model.output("logits").partial_shape[1] == 5
    for batch in (1, 2, 5) if dynamic else (2,):
        (images,) = example(batch)
        with torch.inference_mode():
            expected = network(images).numpy()
        np.testing.assert_allclose(model(images.numpy())[0], expected, rtol=1e-4, atol=1e-5)


def test_weights_as_float16_take_half_and_lose_little(tmp_path: Path) -> None:
    network = module()
    whole = contents(OpenVinoIr().export(network, example(), STATIC))
    half = contents(
        OpenVinoIr().export(network, example(), ExportOptions(20, False, half_weights=True))
    )
    assert len(half[".bin"]) < 0.6 * len(whole[".bin"])
    (images,) = example()
    with torch.inference_mode():
        expected = network(images).numpy()
    found = compiled(tmp_path, half)(images.numpy())[0]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)
    assert not np.array_equal(found, expected)


def test_the_bytes_depend_on_the_model_only(tmp_path: Path) -> None:
    """Not on the folder, on hash seeds, or on the models converted before."""
    OpenVinoIr().export(nn.ReLU(), example(), STATIC)
    files = contents(OpenVinoIr().export(module(), example(), STATIC))
    code = MAKE + textwrap.dedent("""
        import hashlib, sys
        from edgepipe.exporters.base import ExportOptions
        from edgepipe.exporters.openvino_ir import OpenVinoIr
        example = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        files = OpenVinoIr().export(module, (example,), ExportOptions(20, False))
        print(*(hashlib.sha256(data).hexdigest() for data in files.values()))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [hashlib.sha256(data).hexdigest() for data in files.values()]
    assert not [word for word in (os.getcwd(), sys.prefix) if word.encode() in files[".xml"]]


def test_other_outputs_than_were_named_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return pixels + 1, pixels + 2

    with pytest.raises(ExportOptionError, match="2 inputs or outputs, not logits"):
        OpenVinoIr().export(Two(), example(), STATIC)
