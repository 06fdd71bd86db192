"""Every architecture of the zoo at its own input size, from module to runners. Takes half an hour.

Random weights, since no network is needed for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from edgepipe.exporters.zoo import ARCHITECTURES
from edgepipe.exporters.zoo.published import PUBLISHED

Run = Callable[..., CompletedProcess[str]]
RUNNERS = ("ort-cpu", "openvino")
# All but the first convolution, which stays in float.
QUANTIZED = {
    "mobilenet_v2": 51,
    "mobilenet_v1": 26,
    "squeezenet1_1": 25,
    "vgg16": 12,
    "resnext50_32x4d": 52,
    "resnext152_32x4d": 154,
    "inception_v2": 69,
    "efficientnet_b0": 80,
    "efficientnet_lite0": 48,
    "mobilenet_v3_small": 51,
    "mobilenet_v3_large": 61,
    "resnet18": 19,
    "resnet50": 52,
    "shufflenet_v2_x1_0": 55,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_from_module_to_runners(edgepipe: Run, architecture: str) -> None:
    made = edgepipe(
        *("export", architecture, "--weights", "random", "--classes", "1000", "--json"),
        timeout=1800,
    )
    assert made.returncode == 0, made.stderr
    manifest = json.loads(made.stdout)
    assert manifest["model"]["input_size"] == PUBLISHED[architecture].input_size
    assert manifest["model"]["simplified"], manifest["model"]["not_simplified_because"]
    for stage in manifest["stages"]:
        if stage["name"] in ("int8", "int8-avx2"):
            assert stage["result"]["quantized_convolutions"] == QUANTIZED[architecture]
            assert len(stage["result"]["float_convolutions"]) == 1
            assert stage["result"]["clips"] == []
    judged = edgepipe(
        *("parity", "--model", architecture, "--runner", "ort-cpu", "--runner", "openvino"),
        "--json",
        timeout=1800,
    )
    cells = json.loads(judged.stdout)["cells"]
    print(*(f"{cell['variant']}/{cell['runner']} {cell['sqnr_db']} dB" for cell in cells))
    verdicts = {(cell["variant"], cell["runner"]): cell["verdict"] for cell in cells}
    assert len(verdicts) == 6, cells
    assert {verdicts["fp32", runner] for runner in RUNNERS} == {"pass"}
    # Random answers to 1000 classes lie so close together that int8 may change the first one;
    # how far it is from fp32 says whether it was quantized sensibly.
    for cell in cells:
        assert cell["sqnr_db"] > cell["gate"]["min_sqnr_db"], cell
