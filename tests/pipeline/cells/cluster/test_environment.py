"""What is compared of a worker's environment, and what is said where it differs."""

from __future__ import annotations

import pytest

from edgepipe.pipeline.cells.cluster import environment
from edgepipe.pipeline.cells.cluster.environment import CPU, Needs
from edgepipe.pipeline.cells.session import Cell
from edgepipe.pipeline.settings.options import workers_of
from edgepipe.runners.targets import HASWELL, LOCAL


def test_a_difference_names_both_sides_and_what_is_missing() -> None:
    here = {"python": "3.11.7", "onnxruntime": "1.32.0", "openvino": "2026.4.1"}
    there = {"python": "3.11.7", "onnxruntime": "1.31.0", "openvino": None, "more": "1"}
    expected = "onnxruntime 1.31.0, here 1.32.0, no openvino, here 2026.4.1"
    assert environment.difference(there, here) == expected
    assert environment.difference(here, here) == ""


def test_the_cpu_of_a_worker_matters_where_cells_compute_on_it_and_not_where_it_is_emulated() -> (
    None
):
    local = Cell("int8", "ort-cpu", LOCAL, "f32", "int8.onnx", 1)
    emulated = Cell("int8", "ort-cpu", HASWELL, "f32", "int8.onnx", 1)
    assert CPU in environment.describe(Needs.of([local]))
    found = environment.describe(Needs.of([emulated]))
    assert CPU not in found
    assert "qemu-x86_64" in found


def test_versions_of_what_runs_the_cells_are_compared_and_of_nothing_else() -> None:
    needs = Needs.of([Cell("fp32", "ort-cpu", LOCAL, "f32", "fp32.onnx", 1)])
    assert {"numpy", "pillow", "onnxruntime", "distributed"} <= set(needs.distributions)
    assert "torch" not in needs.distributions
    assert environment.describe(needs)["edgepipe"] != environment.sources()


@pytest.mark.parametrize(
    ("text", "count"),
    [("local:1", 1), ("local:64", 64), ("tcp://10.0.0.5:8786", None), ("box.lan:8786", None)],
)
def test_an_address_is_a_schedulers_or_a_number_of_workers_here(
    text: str, count: int | None
) -> None:
    assert workers_of(text) == count


@pytest.mark.parametrize("text", ["local", "local:0", "local:x", "local:1000", "box", "a b:1", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither local:N"):
        workers_of(text)
