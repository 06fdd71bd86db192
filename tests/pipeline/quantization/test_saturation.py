"""The bound on what CPUs without VNNI add up, against an emulated one that saturates."""

from __future__ import annotations

import itertools
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepipe.pipeline.cells.session import Cell, load_cell, start_worker
from edgepipe.pipeline.quantization import ranges
from edgepipe.pipeline.quantization.qdq import QdqGraph, worst_of_layers, write
from edgepipe.pipeline.quantization.scales import MOST_OF_A_PAIR
from edgepipe.runners.targets import HASWELL, LOCAL

from .nets import made, residual_net

haswell = pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 (package qemu-user) isn't installed"
)
NETS = 20


def loud(model: Any) -> Any:
    """Activations at their largest and weights of one sign: what saturates if anything does."""
    constants = {}
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight"):
            constants[tensor.name] = np.abs(onnx.numpy_helper.to_array(tensor))
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            values = constants[tensor.name].astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


@haswell
def test_no_layer_is_called_safe_that_saturates_under_emulation(tmp_path: Path) -> None:
    """One net a seed, quiet and loud ones: layers in turn keep eight bits, the others are exact."""
    inputs, models, said = [], [], []
    for seed in range(NETS):
        net = residual_net("Clip", seed, channels=16)
        found = made(loud(net) if seed % 2 else net, images=6)
        exact = bool(seed % 4 < 2)
        draft = replace(
            found.draft,
            exact_pairs=exact,
            ranges=ranges.choose(found.data.calibrated, "min-max"),
        )
        path = tmp_path / f"{seed}.onnx"
        onnx.save(write(draft), path)
        models.append(path)
        inputs.append(dict(found.held_out[0]))
        said.append(max(worst_of_layers(onnx.load(path)).values()) <= MOST_OF_A_PAIR)
    answers = {LOCAL: list[np.ndarray](), HASWELL: list[np.ndarray]()}
    for target, found in answers.items():
        cell = Cell("int8", "ort-cpu", target, "f32", "", 1)
        with closing(start_worker(cell)) as worker:
            for path, feeds in zip(models, inputs, strict=True):
                load_cell(worker, replace(cell, file=path.name), path)
                found.append(worker.run(feeds).arrays["logits"])
    same = [np.array_equal(*both) for both in zip(*answers.values(), strict=True)]
    assert [seed for seed in range(NETS) if said[seed] and not same[seed]] == []
    assert said == [seed % 4 < 2 for seed in range(NETS)]
    # It has to find something: some of the others do saturate.
    assert not all(same)


def test_the_bound_is_of_the_weights_in_the_file() -> None:
    net = made(residual_net("Clip"))
    draft = replace(net.draft, ranges=ranges.choose(net.data.calibrated, "min-max"))
    model = write(draft)
    graph = QdqGraph(model)
    weights = graph.weights_of(graph.layers["project"]).reshape(16, 32).astype(int)
    worst = 0
    for row in weights:
        for left, right in itertools.pairwise(row):
            worst = max(worst, abs(left), abs(right), abs(left + right) * (left * right > 0))
    assert worst_of_layers(model)["project"] == worst
