"""Computing as an older CPU, by real workers: what OpenVINO computes then, and what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgepipe.runners.backends import probe
from edgepipe.runners.base import RunnerUnavailable, SessionError, Settings
from edgepipe.runners.machine import host, isa
from edgepipe.runners.targets import BUILT_IN_TARGETS, CAPPED, ISAS, LOCAL, Target
from edgepipe.runners.workers.launch import Worker

pytestmark = pytest.mark.skipif(
    "avx2" not in host.facts()["cpu_flags"], reason="needs an x86 CPU with AVX2"
)
AVX2 = BUILT_IN_TARGETS["isa-avx2"]
FLAGS = set(host.facts()["cpu_flags"])
CHANNELS = 16


def saturating() -> bytes:
    """A quantized 1 x 1 convolution, each of whose sums of two products leaves 16 bits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    arrays = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "centre": np.zeros(CHANNELS, np.int8),
        "steps": np.ones(CHANNELS, np.float32),
        "weights": np.full((CHANNELS, CHANNELS, 1, 1), 127, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weights", "steps", "centre"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["output"]),
    ]
    shape = [1, CHANNELS, 8, 8]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def largest(target: Target, model: bytes) -> float:
    """The model's largest output on a target, of inputs that are all 255."""
    feeds = {"input": np.full((1, CHANNELS, 8, 8), 255, np.float32)}
    with Worker(target.argv()) as worker:
        worker.load("openvino", {"model.onnx": model}, Settings(1))
        return float(worker.run(feeds).arrays["output"].max())


def test_int8_saturates_on_avx2_whatever_the_cpu_and_not_where_it_has_vnni() -> None:
    exact, model = 255.0 * 127 * CHANNELS, saturating()
    assert largest(AVX2, model) == 32767 * CHANNELS / 2
    vnni = BUILT_IN_TARGETS["isa-avx512-core-vnni"]
    if ISAS["avx512-core-vnni"].flags <= FLAGS:
        assert largest(vnni, model) == exact
    if not host.saturates(host.facts()):
        assert largest(LOCAL, model) == exact


@pytest.mark.parametrize("name", isa.VARIABLES)
def test_a_cap_of_the_users_environment_governs_no_cell(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saturating()
    free = largest(LOCAL, model)
    monkeypatch.setenv(name, "AVX2")
    assert largest(LOCAL, model) == free
    monkeypatch.setenv(name, "SSE41")
    assert largest(AVX2, model) == 32767 * CHANNELS / 2


@pytest.mark.parametrize("target", CAPPED, ids=lambda target: target.name)
def test_it_computes_as_that_cpu_and_says_so_or_says_what_the_cpu_lacks(target: Target) -> None:
    assert target.isa
    cap = ISAS[target.isa]
    if missing := cap.flags - FLAGS:
        with pytest.raises(RunnerUnavailable) as raised, Worker(target.argv()):
            pass
        assert str(raised.value).endswith(f"it has no {', '.join(sorted(missing))}")
        assert not raised.value.greeted, "no cell of the target is tried again"
        return
    with Worker(target.argv()) as worker:
        facts = worker.hello["host"]
        assert facts["isa"] == cap.value
        assert set(facts["cpu_flags"]) == cap.flags
        loaded = worker.load("openvino", {"probe.onnx": probe.model()}, Settings(1))
        assert loaded.placement.isa in cap.logged
        outputs = worker.run(probe.feeds()).arrays
        assert probe.precision(outputs) == "f32"


def test_where_nothing_is_to_be_proven_nothing_is_claimed() -> None:
    with Worker(LOCAL.argv()) as worker:
        assert "isa" not in worker.hello["host"]
        loaded = worker.load("openvino", {"probe.onnx": probe.model()}, Settings(1))
        assert loaded.placement.isa is None


@pytest.mark.parametrize("runner", ["ort-cpu", "torch"])
def test_a_runner_that_looks_at_the_cpu_itself_is_refused(runner: str) -> None:
    with Worker(AVX2.argv()) as worker:
        reason = worker.describe(runner).reason
        assert reason
        assert reason.startswith(f"{runner} can't compute as AVX2, only openvino")
        assert "--target haswell" in reason
        with pytest.raises(RunnerUnavailable, match="can't compute as AVX2"):
            worker.load(runner, {"probe.onnx": probe.model()}, Settings(1))


def test_a_cap_that_comes_too_late_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN looks at the environment once, and here something has used it before the worker."""
    (tmp_path / "probe.onnx").write_bytes(probe.model())
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"if os.environ.pop('TOO_EARLY', None) and {str(tmp_path)!r} in sys.path:\n"
        "    import openvino\n"
        f"    openvino.Core().compile_model({str(tmp_path / 'probe.onnx')!r}, 'CPU')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TOO_EARLY", "1")
    with Worker(AVX2.argv()) as worker, pytest.raises(SessionError) as raised:
        worker.load("openvino", {"probe.onnx": probe.model()}, Settings(1))
    assert str(raised.value).startswith("openvino was to compute as AVX2, and says")


def test_the_cap_goes_along_wherever_the_worker_starts() -> None:
    over_ssh = Target.over_ssh("box", "user@box", "/opt/python", isa="avx2")
    assert over_ssh.argv()[-2:] == ["--isa", "avx2"]
    assert isa.cap_of(over_ssh.argv()) == ISAS["avx2"]
    assert isa.cap_of(LOCAL.argv()) is None
    with Worker(AVX2.argv(sys.executable)) as worker:
        assert worker.hello["host"]["isa"] == "AVX2"


def test_this_process_keeps_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with Worker(AVX2.argv()):
        assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
        assert isa.LOG not in os.environ
