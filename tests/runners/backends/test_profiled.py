"""What runners say of their nodes: on a small network, and out of traces that are made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgepipe.runners.backends.onnxruntime import OrtCpu
from edgepipe.runners.backends.onnxruntime_trace import MOST_EVENTS, node_times
from edgepipe.runners.backends.openvino import OpenVino
from edgepipe.runners.backends.openvino_counters import Counters
from edgepipe.runners.base import Profiler, SessionError, Settings
from edgepipe.runners.testing import onnx_cases
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.timing.profile import profile

RUNNERS: tuple[Profiler, ...] = (OrtCpu(), OpenVino())
SHORT = Plan(
    seconds=0.05, min_samples=5, max_seconds=5.0, window_seconds=0.01, warm_up_seconds=0.02
)


@pytest.fixture(params=RUNNERS, ids=lambda runner: runner.name)
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    (name, model) = next(iter(onnx_cases((1,))[0].files.items()))
    (tmp_path / name).write_bytes(model)
    loaded = request.param.load_profiled(tmp_path / name, Settings(threads=1))
    yield loaded
    loaded.close()


def test_a_profiled_session_answers_as_any_other_and_knows_its_nodes(session: Any) -> None:
    case = onnx_cases((1,))[0]
    assert np.allclose(session.run(case.feeds)["logits"], case.reference["logits"], atol=1e-4)
    samples, times = profile(session, case.feeds, SHORT)
    assert len(samples) >= 5
    assert {node.precision for node in times.nodes} == {"f32"}
    assert any("Conv" in node.operator for node in times.nodes)
    assert all(node.us >= 0 and node.provider for node in times.nodes)
    # Tiny nodes: whole microseconds may all be 0, but never more than the runs took.
    assert 0 <= times.total_us <= samples.max() / 1e3


def test_nothing_run_is_nothing_to_tell(session: Any) -> None:
    session.run(onnx_cases((1,))[0].feeds)
    session.begin()
    with pytest.raises(SessionError):
        session.times()


def test_a_trace_is_bounded_whatever_the_time(session: Any) -> None:
    most = session.most_runs
    assert most is None or most <= MOST_EVENTS


def node(name: str, ts: int, dur: int, operator: str = "Conv", **about: Any) -> dict[str, Any]:
    shapes = {"input_type_shape": [{"float": [1, 4]}], "node_index": about.pop("index", name)}
    args = {"op_name": operator, "provider": "CPUExecutionProvider", **shapes, **about}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def run_of(*nodes: dict[str, Any]) -> list[dict[str, Any]]:
    return [*nodes, {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100, "args": {}}]


def trace(*events: dict[str, Any]) -> list[str]:
    """As ONNX Runtime writes it: an event a line."""
    lines = [json.dumps(event) for event in events]
    return ["[\n", *(f"{line},\n" for line in lines[:-1]), f"{lines[-1]}\n", "]\n"]


def us(lines: list[str], before: int = 0) -> dict[str, float]:
    return {one.name: one.us for one in node_times(lines, before).nodes}


def test_times_are_medians_over_the_runs_after_the_warm_up() -> None:
    runs = [run_of(node("a", 0, dur), node("b", dur, 7)) for dur in (900, 10, 30, 20)]
    found = node_times(trace(*(event for run in runs for event in run)), 1)
    assert found.statistic == "median"
    assert {one.name: one.us for one in found.nodes} == {"a": 20.0, "b": 7.0}
    assert found.total_us == 27.0


def test_what_is_inside_a_loop_is_in_the_time_of_the_loop() -> None:
    inside = [node("body", 2, 3), node("body", 6, 3)]
    lines = trace(*run_of(*inside, node("loop", 1, 10, "Loop"), node("after", 11, 4)))
    assert us(lines) == {"loop": 10.0, "after": 4.0}


def test_nodes_that_take_no_microsecond_or_are_not_always_run_count_as_nothing() -> None:
    lines = trace(*run_of(node("a", 0, 5), node("b", 5, 0)), *run_of(node("a", 0, 5)))
    assert us(lines) == {"a": 5.0, "b": 0.0}
    lines = trace(*run_of(node("a", 0, 5)), *run_of(node("a", 0, 5), node("late", 5, 8)))
    assert us(lines)["late"] == 4.0  # once in two runs


def test_two_nodes_of_one_name_stay_two() -> None:
    lines = trace(*run_of(node("a", 0, 5, index="1"), node("a", 5, 8, index="2")))
    assert [one.us for one in node_times(lines, 0).nodes] == [5.0, 8.0]


def test_a_run_that_the_trace_lost_the_end_of_is_none() -> None:
    whole, cut = run_of(node("a", 0, 5)), [node("a", 0, 500)]
    assert us(trace(*whole, *cut)) == {"a": 5.0}
    with pytest.raises(SessionError, match="too many nodes"):
        node_times(trace(*cut), 0)


@pytest.mark.parametrize(
    ("operator", "kinds", "precision"),
    [
        ("QLinearConv", ["uint8", "float"], "int8"),
        ("QLinearConcat", ["float", "uint8", "uint8"], "int8"),
        ("QuantizeLinear", ["float", "uint8"], "f32"),
        ("DynamicQuantizeMatMul", ["float", "int8"], "int8"),
        ("Gather", ["int64"], "int64"),
        ("Conv", ["float16"], "f16"),
    ],
)
def test_the_precision_is_that_of_what_a_node_reads(
    operator: str, kinds: list[str], precision: str
) -> None:
    shapes = [{kind: [1]} for kind in kinds]
    lines = trace(*run_of(node("a", 0, 1, operator, input_type_shape=shapes)))
    assert node_times(lines, 0).nodes[0].precision == precision


class Compiled:
    """A compiled model whose graph says nothing of its nodes, and its request, which adds up."""

    def __init__(self) -> None:
        self.total, self.runs = 0, 0

    def run(self, us: int) -> None:
        self.total, self.runs = self.total + us, self.runs + 1

    def get_runtime_model(self) -> Any:
        return SimpleNamespace(get_ops=list)

    def get_profiling_info(self) -> list[Any]:
        mean = timedelta(microseconds=self.total // self.runs)
        about = {"node_name": "a", "node_type": "Convolution", "exec_type": "brgconv_avx2_f32"}
        return [
            SimpleNamespace(real_time=mean, status="Status.EXECUTED", **about),
            SimpleNamespace(real_time=mean, status="Status.NOT_RUN", **{**about, "node_name": "b"}),
        ]


def test_openvinos_means_are_of_the_runs_after_the_warm_up() -> None:
    compiled = Compiled()
    counters = Counters(compiled, compiled)
    for number, us in enumerate((5000, 1000, 30, 30, 30, 30)):
        if number == 2:
            counters.begin()
        compiled.run(us)
        counters.ran()
    found = counters.times("CPU")
    assert [(node.name, node.kernel) for node in found.nodes] == [("a", "brgconv_avx2_f32")]
    assert found.total_us == pytest.approx(30, abs=2)  # means are cut to whole microseconds
