"""ort-cuda without a GPU: what its provider is told, what is refused, bound buffers on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.pipeline.machine.inventory import Inventory, RunnerFacts
from edgepipe.pipeline.report.text.terminal import runners_table
from edgepipe.pipeline.stages import chain
from edgepipe.runners import registry
from edgepipe.runners.backends import onnx_file, probe
from edgepipe.runners.backends.nvidia import cuda as onnxruntime_cuda
from edgepipe.runners.backends.nvidia.binding import (
    BoundSession,
    BoundSessions,
    Device,
    DeviceSession,
)
from edgepipe.runners.backends.nvidia.cuda import OrtCuda, provider_options
from edgepipe.runners.backends.onnxruntime import CPU, OrtCpu, Provider, create
from edgepipe.runners.backends.queues import ThreadQueue
from edgepipe.runners.base import (
    OutOfMemory,
    Placement,
    PlacementError,
    RunnerUnavailable,
    SessionError,
    Settings,
)
from edgepipe.runners.machine import host
from edgepipe.runners.testing import RunnerConformance
from edgepipe.runners.timing.measure import measure
from edgepipe.runners.timing.plan import COLD, Plan

GPU = bool(host.cuda_devices())


def settings(kind: str = "f32", /, **options: Any) -> Settings:
    return Settings(2, kind, "GPU", options=options)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (settings(), {"use_tf32": "0"}),
        (settings("tf32"), {"use_tf32": "1"}),
        (settings("f16"), {"use_tf32": "0"}),
        (
            settings(cudnn_conv_algo_search="HEURISTIC", prefer_nhwc=True),
            {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "1"},
        ),
        (
            settings(arena_extend_strategy="kSameAsRequested", prefer_nhwc=False),
            {
                "use_tf32": "0",
                "arena_extend_strategy": "kSameAsRequested",
                "prefer_nhwc": "0",
            },
        ),
        (settings(cuda_graph=True), {"use_tf32": "0", "enable_cuda_graph": "1"}),
        (settings(io_binding=True, cuda_graph=False), {"use_tf32": "0"}),
    ],
)
def test_the_provider_is_told_in_its_own_words(asked: Settings, told: Mapping[str, str]) -> None:
    assert provider_options(asked, 1) == {"device_id": "1", **told}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (settings(cudnn_conv_algo_search="FAST"), "one of EXHAUSTIVE, HEURISTIC, DEFAULT"),
        (settings(prefer_nhwc="yes"), "prefer_nhwc is one of False, True, not 'yes'"),
        (settings(cuda_graph=1), "cuda_graph is one of False, True, not 1"),
        (settings(spinning=False), "ort-cuda has no option 'spinning'"),
        (
            Settings(2, device="GPU", allow_fallback=True, options={"cuda_graph": True}),
            "every node on the GPU",
        ),
    ],
)
def test_what_it_does_not_know_is_refused(asked: Settings, says: str) -> None:
    with pytest.raises(SessionError, match=says):
        provider_options(asked, 0)


def test_what_tune_tries_is_known_and_is_not_the_default() -> None:
    for name, values in OrtCuda.tunables.items():
        for value in values:
            told = provider_options(Settings(2, device="GPU", options={name: value}), 0)
            assert (name == "io_binding") == (told == provider_options(settings(), 0))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The probes as files, and what is none."""
    contents = {"float": probe.model(), "half": probe.half_model(), "none": b"\xff\xff"}
    for name, data in contents.items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
    return {name: tmp_path / f"{name}.onnx" for name in contents}


def test_which_files_have_float16(files: Mapping[str, Path]) -> None:
    found = {name: onnx_file.holds_half(path) for name, path in files.items()}
    assert found == {"float": False, "half": True, "none": False}


@pytest.mark.parametrize(
    ("name", "precision", "says"),
    [
        ("float", "f16", "f16 is for the variant fp16"),
        ("half", "tf32", "tf32 is for float32 tensors"),
        ("float", "bf16", "runs f32, tf32, f16 on GPU, not bf16"),
    ],
)
def test_a_precision_that_a_file_has_not_is_refused(
    files: Mapping[str, Path], name: str, precision: str, says: str
) -> None:
    with pytest.raises(SessionError, match=says):
        OrtCuda().load(files[name], settings(precision))


@pytest.mark.skipif(GPU, reason="there is a GPU")
@pytest.mark.parametrize("options", [{}, {"io_binding": True}, {"cuda_graph": True}])
@pytest.mark.parametrize(("name", "precision"), [("float", "f32"), ("half", "f16")])
def test_without_a_gpu_every_way_to_load_has_a_reason(
    files: Mapping[str, Path], name: str, precision: str, options: Mapping[str, Any]
) -> None:
    with pytest.raises(RunnerUnavailable, match=r"no NVIDIA GPU found|no CUDAExec"):
        OrtCuda().load(files[name], settings(precision, **options))


def test_int8_on_a_gpu_is_said_to_be_no_gain(
    files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remark = registry.BUILT_IN["ort-cuda"].remark
    assert "fp16 is the variant for a GPU" in remark

    def refuse(*_: object) -> None:
        raise PlacementError("takes 255 of the model's 307 nodes, not DequantizeLinear")

    monkeypatch.setattr(onnxruntime_cuda, "create", refuse)
    wheel = SimpleNamespace(get_available_providers=lambda: [onnxruntime_cuda.PROVIDER])
    monkeypatch.setattr(onnxruntime_cuda, "library", lambda _: wheel)
    monkeypatch.setattr(onnxruntime_cuda, "preload", lambda: None)
    with pytest.raises(PlacementError, match="fp16 is the variant for a GPU"):
        OrtCuda().load(files["float"], settings())
    facts = ("ort-cuda", "local", "ok", None, None, None, None, "1.31", ("GPU",), ("onnx",))
    listed = Inventory((RunnerFacts(*facts, ("f32",), remark),))
    assert f"ort-cuda on local: {remark}" in runners_table(listed)
    monkeypatch.setattr(host, "cuda_devices", lambda: ["Some GPU"])
    assert "--variant fp16" in (chain.word_on_gpus(("int8",)) or "")
    assert chain.word_on_gpus(("int8", "fp16")) is None
    monkeypatch.setattr(host, "cuda_devices", list)
    assert chain.word_on_gpus(("int8",)) is None


# Bound buffers, in the CPU's memory --------------------------------------------------------------


class BoundOnCpu(OrtCpu):
    """``ort-cpu`` with its inputs and outputs in buffers."""

    def load(self, model: Path, settings: Settings) -> BoundSession:
        loaded = super().load(model, settings)
        session: Any = loaded._session
        return BoundSession(session, lambda _: loaded.placement, Device("cpu"), captured=False)


class TestBoundOnCpu(RunnerConformance):
    runner = BoundOnCpu


@pytest.fixture
def adding(tmp_path: Path) -> Path:
    """``y = x + 1`` for any batch, and the rows of x that are not zero, however many."""
    batch: list[int | str] = ["batch", 3]
    one = numpy_helper.from_array(np.ones(3, np.float32), "one")
    nodes = [
        helper.make_node("Add", ["x", "one"], ["y"]),
        helper.make_node("NonZero", ["x"], ["where"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, batch),
        helper.make_tensor_value_info("where", TensorProto.INT64, [2, "found"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, batch)]
    graph = helper.make_graph(nodes, "adding", inputs, outputs, [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "adding.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "adding.onnx"


def bound(model: Path, *, captured: bool = False) -> BoundSession:
    session = create(model, Settings(1), Provider(CPU))
    return BoundSession(
        session, lambda _: Placement("CPU", "f32", 1), Device("cpu"), captured=captured
    )


def test_answers_are_of_their_own_feeds_and_stay(adding: Path) -> None:
    session = bound(adding)
    kept = []
    for value, batch in ((1.0, 1), (2.0, 4), (0.0, 1), (5.0, 4)):
        feeds = {"x": np.full((batch, 3), value, np.float32)}
        kept.append((session.run(feeds), value, batch))
    for outputs, value, batch in kept:
        assert np.array_equal(outputs["y"], np.full((batch, 3), value + 1, np.float32))
        assert outputs["where"].shape == (2, 3 * batch if value else 0)
    session.close()


def test_threads_do_not_share_buffers(adding: Path) -> None:
    session, wrong = bound(adding), []

    def work(value: float) -> None:
        for _ in range(200):
            found = session.run({"x": np.full((8, 3), value, np.float32)})["y"]
            if not np.array_equal(found, np.full((8, 3), value + 1, np.float32)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "inputs none, not x"),
        ({"x": np.zeros((1, 3), np.float64)}, "x is float64"),
        ({"x": np.zeros((1, 4), np.float32)}, r"x is float32 \[1, 4\]"),
        ({"x": np.zeros(3, np.float32)}, r"x is float32 \[3\]"),
        ({"x": np.zeros((1, 3), np.float32), "z": np.zeros(1)}, "inputs x, z, not x"),
    ],
)
def test_a_buffer_takes_nothing_that_does_not_fit(
    adding: Path, feeds: Mapping[str, np.ndarray], says: str
) -> None:
    with pytest.raises(SessionError, match=says):
        bound(adding).run(feeds)


@pytest.mark.parametrize(
    ("asked", "streams"),
    [
        (settings(cuda_graph=True), 1),
        (Settings(8, device="GPU", streams=3, options={"cuda_graph": True}), 3),
        (Settings(8, device="GPU", streams=None, options={"cuda_graph": True}), 2),
        (Settings(8, device="GPU", streams=None, options={"io_binding": True}), 8),
        (Settings(8, device="GPU", streams=None), 8),
    ],
)
def test_several_graphs_are_few_unless_more_are_asked_for(asked: Settings, streams: int) -> None:
    assert onnxruntime_cuda.streams_on_gpu(asked) == streams


def test_several_graphs_run_side_by_side_each_in_buffers_of_its_own(
    files: Mapping[str, Path],
) -> None:
    sessions = BoundSessions([bound(files["float"], captured=True) for _ in range(3)])
    found: list[str] = []
    queue = ThreadQueue(sessions.run, 3)
    for _ in range(60):
        queue.submit(probe.feeds(), lambda outputs: found.append(probe.precision(outputs)))
    queue.wait()
    queue.close()
    assert found == ["f32"] * 60
    sessions.resident(probe.feeds())()
    sessions.close()


def test_a_run_on_the_device_is_timed_beside_the_others(files: Mapping[str, Path]) -> None:
    plan = Plan(0.02, 8, 5.0, 0.005, 0.05)
    plain = create(files["float"], Settings(1), Provider(CPU))
    for session in (
        bound(files["float"]),
        bound(files["float"], captured=True),
        DeviceSession(plain, lambda _: Placement("CPU", "f32", 1), Device("cpu")),
    ):
        found = measure(session, probe.feeds(), plan)
        assert found.on_device_ms
        assert 0 < found.on_device_ms < 1e3
        assert measure(session, probe.feeds(), replace(plan, scenario=COLD)).on_device_ms is None
    ordinary = OrtCpu().load(files["float"], Settings(1))
    assert measure(ordinary, probe.feeds(), plan).on_device_ms is None


def test_a_run_on_the_device_without_room_is_no_figure_and_no_failure(
    files: Mapping[str, Path],
) -> None:
    class Full(BoundSession):
        def resident(self, feeds: Mapping[str, np.ndarray]) -> Any:
            raise OutOfMemory("full")

    session = create(files["float"], Settings(1), Provider(CPU))
    full = Full(session, lambda _: Placement("CPU", "f32", 1), Device("cpu"), captured=False)
    assert measure(full, probe.feeds(), Plan(0.02, 8, 5.0, 0.005, 0.05)).on_device_ms is None


def test_a_graph_is_of_one_shape(files: Mapping[str, Path], adding: Path) -> None:
    session = bound(files["float"], captured=True)
    first = session.run(probe.feeds())
    assert probe.precision(first) == "f32"
    assert probe.precision(session.run(probe.feeds())) == "f32"
    with pytest.raises(SessionError, match="cuda_graph needs fixed shapes; output where has"):
        bound(adding, captured=True)
