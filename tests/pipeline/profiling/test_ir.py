"""Layers of an OpenVINO IR, which has no names: found by what they multiply, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepipe.pipeline.profiling import ir
from edgepipe.pipeline.stages.graphs import Layer


def port(*sides: int) -> str:
    return f"<port>{''.join(f'<dim>{side}</dim>' for side in sides)}</port>"


def operation(
    name: str, kind: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], data: str = ""
) -> str:
    ports = "".join(port(*shape) for shape in inputs)
    inside = f"{data}<input>{ports}</input><output>{port(*output)}</output>"
    return f'<layer name="{name}" type="{kind}">{inside}</layer>'


CONV = operation("Convolution_2", "Convolution", [(-1, 3, 8, 8), (4, 3, 3, 3)], (-1, 4, 8, 8))
RELU = operation("Relu_3", "ReLU", [(-1, 4, 8, 8)], (-1, 4, 8, 8))
GROUPED = operation(
    "GroupConvolution_4", "GroupConvolution", [(-1, 4, 8, 8), (2, 2, 2, 3, 3)], (-1, 4, 8, 8)
)
HEAD = operation(
    "MatMul_6",
    "MatMul",
    [(-1, 256), (10, 256)],
    (-1, 10),
    '<data transpose_a="false" transpose_b="true" />',
)
MACS = {"features.0": 4 * 64 * 27, "features.1": 4 * 64 * 18, "classifier": 2560}


@pytest.fixture
def layers() -> tuple[Layer, ...]:
    return tuple(
        Layer(name, "Conv", f"t{number}", frozenset(), frozenset({f"t{number}"}), macs)
        for number, (name, macs) in enumerate({**MACS, "pool": 0}.items())
    )


def written(tmp_path: Path, *operations: str) -> Path:
    file = tmp_path / "fp32.xml"
    file.write_text(f"<net><layers>{''.join(operations)}</layers></net>")
    return file


def test_operations_get_the_names_of_layers_that_multiply_as_much(
    layers: tuple[Layer, ...], tmp_path: Path
) -> None:
    found = ir.with_operations(layers, written(tmp_path, CONV, RELU, GROUPED, HEAD))
    assert found
    assert {name: layer.name for layer in found for name in layer.parts - {layer.tensor}} == {
        "Convolution_2": "features.0",
        "GroupConvolution_4": "features.1",
        "MatMul_6": "classifier",
    }


@pytest.mark.parametrize("operations", [(CONV, HEAD), (GROUPED, CONV, HEAD), (CONV, HEAD, CONV)])
def test_another_network_gets_no_names_at_all(
    operations: tuple[str, ...], layers: tuple[Layer, ...], tmp_path: Path
) -> None:
    assert ir.with_operations(layers, written(tmp_path, *operations)) is None
