"""bench --profile on the default workspace, on the runners that are really there.

What it refuses, and what becomes of failures, is in tests/combinations/test_profiled.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.pipeline import ProfileResult, profile, write_report
from edgepipe.pipeline.stages.graphs import LayerGraph

Run = Callable[..., CompletedProcess[str]]


def profiled(workspace: Path, variant: str, runner: str) -> ProfileResult:
    return profile(
        workspace=workspace, variants=(variant,), runners=(runner,), threads=1, quick=True
    )


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
def test_an_int8_cell_is_taken_apart(workspace: Path, runner: str) -> None:
    found = profiled(workspace, "int8", runner)
    folder = workspace / "mobilenet_v2"
    model = json.loads((folder / "manifest.json").read_text())["model"]
    explained = {layer.name: layer for layer in LayerGraph(folder / "int8.onnx").layers}
    # Every layer has the name that parity --explain gives it, and nothing was lost on the way.
    assert {layer.layer for layer in found.layers} <= explained.keys()
    assert found.macs == model["macs"] == sum(layer.macs or 0 for layer in found.layers)
    convolutions = [one for one in found.layers if one.layer.startswith("features.")]
    assert len(convolutions) == 52
    assert sum(one.precision == "int8" for one in convolutions) == 51
    assert convolutions[0].layer == "features.0.0"
    assert convolutions[0].precision == "f32"
    # A node is in one operator and in one layer.
    us = sum(node.us for node in found.nodes)
    assert sum(one.us for one in found.operators) == pytest.approx(us)
    assert sum(one.us + one.conversion_us for one in found.layers) == pytest.approx(us)
    assert sum(one.nodes for one in found.operators) == len(found.nodes)
    # What nodes take is in the time of a run. On a busy machine much of that is waiting.
    assert 0.1 < found.covered < 1.05
    # Both precisions have a peak, and int8 is why one quantizes.
    peaks = {one.precision: one for one in found.peaks}
    assert peaks.keys() == {"f32", "int8"}
    assert all(layer.peak_share for layer in convolutions)
    assert found.stale({}) == ["int8.onnx"]
    assert ProfileResult.load(folder / "profile.json") == found


def test_the_pooling_that_onnx_runtime_computes_in_float_is_called_out(
    workspace: Path, edgepipe: Run
) -> None:
    flags = ("--runner", "ort-cpu", "--variant", "int8", "--quick", "--threads", "1")
    done = edgepipe("bench", "--profile", *flags, "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    assert "in f32 between int8 layers: node_mean (ReduceMean)" in done.stdout
    assert "features.0.0" in done.stdout
    assert "of peak" in done.stdout
    assert "QLinearConv" in done.stdout
    _, page = write_report(workspace=workspace)
    text = page.read_text()
    assert "Where the time goes" in text
    assert "conversions behind it" in text
    again = f"edgepipe bench --profile {' '.join(flags[:4])}"
    _, page = write_report(workspace=workspace, format="markdown")
    assert f"{again} --target local" in page.read_text()


def test_openvinos_kernels_are_named_and_their_unit_is_read_off(workspace: Path) -> None:
    found = profiled(workspace, "int8", "openvino")
    assert found.statistic == "mean"
    kernels = {node.kernel for node in found.nodes if "Convolution" in node.operator}
    assert all("conv" in kernel for kernel in kernels)
    (int8,) = (one for one in found.peaks if one.precision == "int8")
    assert int8.kernel_unit or int8.cpu_unit


def test_fp32_is_the_cell_of_a_workspace_that_was_not_benched(workspace: Path) -> None:
    found = profile(workspace=workspace, threads=1, quick=True)
    assert (found.cell.variant, found.cell.runner) == ("fp32", "ort-cpu")
    assert "not benched yet" in found.cell.chosen
    assert {layer.precision for layer in found.layers} == {"f32"}
    assert [one.precision for one in found.peaks] == ["f32"]
