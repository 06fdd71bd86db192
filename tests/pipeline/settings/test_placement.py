"""Where cells run: the gates on it, and what is said of nodes that are elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.pipeline.settings import placement

Run = Callable[..., CompletedProcess[str]]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize("text", ["CUDA=95%", "CUDA=95", "CUDAExecutionProvider=95.0%"])
def test_a_share_is_missed_below_it_and_met_at_it(text: str) -> None:
    assert placement.missed({CUDA: 95, CPU: 5}, CUDA, [text]) == []
    (reason,) = placement.missed({CUDA: 94.9, CPU: 5.1}, CUDA, [text])
    assert "94.9 % of the nodes are on CUDAExecutionProvider" in reason


def test_a_gate_is_for_the_cells_that_were_meant_for_its_provider() -> None:
    assert placement.missed({CPU: 100}, CPU, ["CUDA=95%"]) == []
    assert placement.missed({CPU: 100}, CUDA, ["CUDA=95%"]) != []
    assert placement.unmet([CPU], ["CUDA=95%"]) == ("--require-ep CUDA=95%: no cell ran on it",)
    assert placement.unmet([CPU, CUDA], ["CUDA=95%"]) == ()


def test_a_fallback_is_spelled_out() -> None:
    assert placement.spread({CUDA: 100}, CUDA) == ""
    assert placement.spread({CUDA: 90, CPU: 10}, CUDA) == (
        "fallback: 90 % of the nodes on CUDAExecutionProvider, 10 % on CPUExecutionProvider"
    )


@pytest.mark.parametrize("text", ["CUDA", "CUDA=", "CUDA=0", "CUDA=101%", "=95%", "CUDA=x%"])
def test_a_gate_that_is_none_is_a_usage_error(edgepipe: Run, text: str) -> None:
    done = edgepipe("parity", "--require-ep", text)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_the_command_line_gates(workspace: Path, edgepipe: Run) -> None:
    """A real session's placement; what else the gates say is in tests/combinations."""
    flags = ("--runner", "ort-cpu", "--variant", "fp32", "--json", "--workspace", workspace)
    gate = ("--require-ep", "CPUExecutionProvider=100%")
    done = edgepipe("parity", "--samples", "16", *flags, *gate)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert not document["problems"]
    (cell,) = document["cells"]
    assert cell["provider"] == CPU
    assert cell["placement"] == {CPU: 100}
    assert cell["nodes"][CPU] > 10
    assert cell["device_name"]
