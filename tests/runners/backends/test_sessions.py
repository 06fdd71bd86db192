"""The three built-in runners in real workers: the same network on each, and models that break."""

from __future__ import annotations

import functools
import io
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.exporters.base import ExportOptions
from edgepipe.exporters.onnx import save_program, trace
from edgepipe.runners.base import (
    RunnerError,
    RunnerUnavailable,
    SessionError,
    Settings,
    TensorSpec,
    WorkerError,
    WorkerTimeout,
)
from edgepipe.runners.machine import host
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.timing.measure import Measurement
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.workers.answers import Loaded, Outputs
from edgepipe.runners.workers.launch import Timeouts, Worker

Arrays = dict[str, np.ndarray]
Answer = Callable[[Worker], Any]

ONNX_RUNNERS = ("ort-cpu", "openvino")
RUNNERS = (*ONNX_RUNNERS, "torch")
PROVIDERS = {"ort-cpu": "CPUExecutionProvider", "openvino": "CPU", "torch": "CPU"}
TIMEOUTS = Timeouts(start=60.0, load=60.0, run=60.0)
HAS_BF16 = bool({"avx512_bf16", "amx_bf16"} & set(host.facts()["cpu_flags"]))
IR_VERSION, OPSET = 10, 18

MANY = 10**6  # many times many float32 are 4 TB
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(16, 3, 1, 1)).astype(np.float32)
BIAS = RANDOM.normal(size=16).astype(np.float32)
HEAD = RANDOM.normal(size=(16, 5)).astype(np.float32)


def images(count: int) -> Arrays:
    """``count`` images of 8 x 8 pixels, float32 NCHW."""
    pixels = np.random.default_rng(1).normal(size=(count, 3, 8, 8))
    return {"input": pixels.astype(np.float32)}


def expected_logits(pixels: np.ndarray) -> np.ndarray:
    """The network in numpy: 1 x 1 convolution, ReLU, mean over the pixels, matrix product."""
    features = np.einsum("nchw,oc->nohw", pixels, KERNEL[:, :, 0, 0]) + BIAS[:, None, None]
    return np.maximum(features, 0).mean((2, 3)) @ HEAD


def onnx_model(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any] | None]],
    weights: Sequence[Any] = (),
    opsets: Mapping[str, int] | None = None,
) -> bytes:
    """An ONNX file; inputs and outputs are name -> (element type, shape)."""
    values = [
        [helper.make_tensor_value_info(name, *kind) for name, kind in group.items()]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *values, initializer=list(weights))
    imports = [helper.make_opsetid(*opset) for opset in (opsets or {"": OPSET}).items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    return model.SerializeToString()


def program(
    module: Any,
    example: Sequence[Any],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    dynamic: bool = False,
) -> bytes:
    """A ``torch.export`` program, made as edgepipe makes it."""
    options = ExportOptions(OPSET, dynamic, inputs, outputs)
    file = io.BytesIO()
    save_program(trace(module.eval(), example, options), options, file)
    return file.getvalue()


@functools.cache
def network(runner: str, batch: int | None = 1) -> bytes:
    """The network in a format that ``runner`` takes; ``None`` leaves the batch open."""
    if runner == "torch":
        return _network_program(batch)
    weights = {"kernel": KERNEL, "bias": BIAS, "head": HEAD}
    size = batch or "batch"
    return onnx_model(
        [
            helper.make_node("Conv", ["input", "kernel", "bias"], ["convolved"]),
            helper.make_node("Relu", ["convolved"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        ],
        {"input": (TensorProto.FLOAT, [size, 3, 8, 8])},
        {"logits": (TensorProto.FLOAT, [size, 5])},
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )


def _network_program(batch: int | None) -> bytes:
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 16, 1)
            self.convolution.weight = torch.nn.Parameter(torch.from_numpy(KERNEL))
            self.convolution.bias = torch.nn.Parameter(torch.from_numpy(BIAS))
            self.head = torch.nn.Parameter(torch.from_numpy(HEAD))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.convolution(pixels).relu().mean((2, 3)) @ self.head

    example = (torch.zeros(batch or 2, 3, 8, 8),)
    return program(Network(), example, ("input",), ("logits",), dynamic=batch is None)


@functools.cache
def comparison(runner: str) -> bytes:
    """Two inputs, three outputs of three dtypes: a + b, a > b, argmax of a."""
    if runner == "torch":
        return _comparison_program()
    two = [2, 3]
    return onnx_model(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Greater", ["a", "b"], ["above"]),
            helper.make_node("ArgMax", ["a"], ["best"], axis=1, keepdims=0),
        ],
        {"a": (TensorProto.FLOAT, two), "b": (TensorProto.FLOAT, two)},
        {
            "total": (TensorProto.FLOAT, two),
            "above": (TensorProto.BOOL, two),
            "best": (TensorProto.INT64, [2]),
        },
    )


def _comparison_program() -> bytes:
    import torch

    class Comparison(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return a + b, a > b, a.argmax(1)

    example = torch.zeros(2, 3), torch.zeros(2, 3)
    return program(Comparison(), example, ("a", "b"), ("total", "above", "best"))


COMPARED: Arrays = {
    "a": np.array([[1, 5, 2], [9, 0, 3]], np.float32),
    "b": np.array([[2, 4, 2], [1, 1, 1]], np.float32),
}


def unary(operator: str, domain: str = "", opset: int = OPSET) -> bytes:
    """One node from ``x`` to ``y``, float32 ``[2, 3]``."""
    value = (TensorProto.FLOAT, [2, 3])
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    opsets = {"": opset} | ({domain: 1} if domain else {})
    return onnx_model([node], {"x": value}, {"y": value}, opsets=opsets)


UNARY: Arrays = {"x": np.array([[-1, 2, -3], [4, -5, 6]], np.float32)}


@dataclass
class Reused:
    """A runner's worker, used by many tests; after it died the next one gets a new one."""

    runner: str
    _worker: Worker | None = None

    def load(self, model: bytes, settings: Settings | None = None) -> Loaded:
        file = "model.pt2" if self.runner == "torch" else "model.onnx"
        return self._ask(
            lambda worker: worker.load(self.runner, {file: model}, settings or Settings(1))
        )

    def run(self, feeds: Arrays) -> Arrays:
        outputs: Outputs = self._ask(lambda worker: worker.run(feeds))
        return dict(outputs.arrays)

    def measure(self, feeds: Arrays, plan: Plan) -> tuple[Measurement, float]:
        return self._ask(lambda worker: worker.measure(feeds, plan))

    def close(self) -> None:
        if self._worker:
            self._worker.close()
            self._worker = None

    def _ask(self, question: Answer) -> Any:
        if self._worker is None:
            self._worker = Worker(LOCAL.argv(), TIMEOUTS).__enter__()
        try:
            return question(self._worker)
        except WorkerError:
            self.close()
            raise


@pytest.fixture(scope="module", params=RUNNERS)
def session(request: pytest.FixtureRequest) -> Iterator[Reused]:
    """Each of the three runners in turn, or those that ``on`` names."""
    reused = Reused(request.param)
    yield reused
    reused.close()


def on(*runners: str) -> pytest.MarkDecorator:
    """Run a test on these runners only."""
    return pytest.mark.parametrize("session", runners, indirect=True, scope="module")


@pytest.mark.parametrize("batch", [1, 4, None])
def test_inputs_and_outputs_are_those_of_the_model(session: Reused, batch: int | None) -> None:
    loaded = session.load(network(session.runner, batch))
    assert loaded.inputs == (TensorSpec("input", "float32", (batch, 3, 8, 8)),)
    assert loaded.outputs == (TensorSpec("logits", "float32", (batch, 5)),)
    assert loaded.load_ms > 0
    assert loaded.runner_version


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (4, 4), (None, 1), (None, 2), (None, 7)])
def test_outputs_are_those_of_the_network(session: Reused, batch: int | None, count: int) -> None:
    session.load(network(session.runner, batch))
    feeds = images(count)
    outputs = session.run(feeds)
    assert list(outputs) == ["logits"]
    assert outputs["logits"].dtype == np.float32
    np.testing.assert_allclose(outputs["logits"], expected_logits(feeds["input"]), rtol=1e-4)


def test_a_dynamic_batch_may_change_from_run_to_run(session: Reused) -> None:
    session.load(network(session.runner, None))
    whole = session.run(images(5))["logits"]
    for number in range(5):
        single = session.run({"input": images(5)["input"][number : number + 1]})["logits"]
        np.testing.assert_allclose(single, whole[number : number + 1], rtol=1e-5)


def test_the_same_input_gives_the_same_bits_every_time(session: Reused) -> None:
    session.load(network(session.runner))
    first = session.run(images(1))["logits"]
    session.run({"input": -images(1)["input"]})
    assert session.run(images(1))["logits"].tobytes() == first.tobytes()
    session.load(network(session.runner))
    assert session.run(images(1))["logits"].tobytes() == first.tobytes()


def test_several_inputs_and_outputs_keep_names_dtypes_and_order(session: Reused) -> None:
    loaded = session.load(comparison(session.runner))
    assert loaded.inputs == tuple(TensorSpec(name, "float32", (2, 3)) for name in "ab")
    assert loaded.outputs == (
        TensorSpec("total", "float32", (2, 3)),
        TensorSpec("above", "bool", (2, 3)),
        TensorSpec("best", "int64", (2,)),
    )
    outputs = session.run(dict(reversed(COMPARED.items())))
    assert list(outputs) == ["total", "above", "best"]
    assert [array.dtype.name for array in outputs.values()] == ["float32", "bool", "int64"]
    np.testing.assert_array_equal(outputs["total"], [[3, 9, 4], [10, 1, 4]])
    np.testing.assert_array_equal(outputs["above"], [[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(outputs["best"], [1, 0])


@on(*ONNX_RUNNERS)
def test_outputs_that_hold_the_same_values_keep_their_names(session: Reused) -> None:
    value = (TensorProto.FLOAT, [2, 3])
    loaded = session.load(
        onnx_model(
            [
                helper.make_node("Relu", ["x"], ["y"]),
                helper.make_node("Identity", ["y"], ["again"]),
                helper.make_node("Identity", ["x"], ["as it came"]),
            ],
            {"x": value},
            {"again": value, "y": value, "as it came": value},
        )
    )
    assert [spec.name for spec in loaded.outputs] == ["again", "y", "as it came"]
    outputs = session.run(UNARY)
    np.testing.assert_array_equal(outputs["as it came"], UNARY["x"])
    for name in ("again", "y"):
        np.testing.assert_array_equal(outputs[name], np.maximum(UNARY["x"], 0))


def test_every_node_is_on_the_runners_own_provider(session: Reused) -> None:
    placement = session.load(network(session.runner)).placement
    assert placement.shares() == {PROVIDERS[session.runner]: 100.0}
    assert sum(placement.nodes.values()) > 0
    assert placement.device == "CPU"
    assert placement.precision == "f32"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_read_back(session: Reused, threads: int) -> None:
    if threads > host.physical_cores():
        pytest.skip("one core")
    loaded = session.load(network(session.runner), Settings(threads))
    assert loaded.placement.threads == threads


@on("openvino")
def test_threads_that_openvino_does_not_start_are_not_claimed(session: Reused) -> None:
    loaded = session.load(network("openvino"), Settings(1000))
    assert loaded.placement.threads < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_ort_starts_the_threads_it_is_asked_for() -> None:
    counts = []
    for threads in (1, 4):
        with Worker(LOCAL.argv(), TIMEOUTS) as worker:
            worker.load("ort-cpu", {"model.onnx": network("ort-cpu")}, Settings(threads))
            worker.run(images(1))
            counts.append(psutil.Process(worker.hello["pid"]).num_threads())
    assert counts[1] - counts[0] == 3


def test_measuring_gives_samples_of_unchanged_outputs(session: Reused) -> None:
    session.load(network(session.runner))
    plan = Plan(
        seconds=0.05, min_samples=20, max_seconds=20.0, window_seconds=0.01, warm_up_seconds=0.2
    )
    measurement, peak_rss_mib = session.measure(images(1), plan)
    assert measurement.samples.dtype == np.int64
    assert len(measurement.samples) >= 20
    assert (measurement.samples > 0).all()
    assert measurement.warm_up_runs >= 8
    assert measurement.deviation < 1e-6
    assert peak_rss_mib > 10


def test_outputs_that_are_flags_and_class_numbers_can_be_measured(session: Reused) -> None:
    session.load(comparison(session.runner))
    plan = Plan(
        seconds=0.0, min_samples=10, max_seconds=20.0, window_seconds=0.0, warm_up_seconds=0.0
    )
    measurement, _ = session.measure(COMPARED, plan)
    assert measurement.deviation == 0


# --- precision ---


@on("openvino")
@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
def test_openvino_runs_bf16_where_the_cpu_can_and_says_so(session: Reused) -> None:
    session.load(network("openvino"))
    exact = session.run(images(1))["logits"]
    loaded = session.load(network("openvino"), Settings(1, precision="bf16"))
    rounded = session.run(images(1))["logits"]
    assert loaded.placement.precision == "bf16"
    assert loaded.placement.convolutions == {"bf16": 1}
    assert loaded.outputs[0].dtype == "float32"
    assert (rounded != exact).any()
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())


@on("openvino")
@pytest.mark.skipif(HAS_BF16, reason="this CPU has bf16")
def test_openvino_refuses_bf16_where_the_cpu_cannot(session: Reused) -> None:
    with pytest.raises(SessionError, match="f32 on this device, not bf16"):
        session.load(network("openvino"), Settings(1, precision="bf16"))


@on("openvino")
def test_openvino_computes_in_f32_unless_asked_otherwise(session: Reused) -> None:
    loaded = session.load(network("openvino"))
    assert loaded.placement.precision == "f32"
    assert loaded.placement.convolutions == {"f32": 1}


@on("openvino")
def test_openvino_names_what_it_would_run_instead_of_f16(session: Reused) -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "avx512_fp16" in cpuinfo.read_text().split():
        pytest.skip("this CPU has f16")
    instead = "bf16" if HAS_BF16 else "f32"
    with pytest.raises(SessionError, match=f"runs {instead} on this device, not f16"):
        session.load(network("openvino"), Settings(1, precision="f16"))


@on("ort-cpu", "torch")
@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_a_runner_that_has_only_f32_refuses_others(session: Reused, precision: str) -> None:
    with pytest.raises(SessionError, match=f"f32.*{precision}"):
        session.load(network(session.runner), Settings(1, precision=precision))


@pytest.mark.parametrize("precision", ["int4", "", "F32"])
def test_a_precision_nobody_has_is_refused(session: Reused, precision: str) -> None:
    with pytest.raises(SessionError):
        session.load(network(session.runner), Settings(1, precision=precision))


def test_a_device_that_is_not_there_is_refused_by_name(session: Reused) -> None:
    with pytest.raises((SessionError, RunnerUnavailable), match="QPU"):
        session.load(network(session.runner), Settings(1, device="QPU"))


# --- models and feeds that a runner can't take ---


def refused(session: Reused, model: bytes, says: str = "") -> None:
    """Loading ``model`` is a ``SessionError`` of one line, and the worker goes on."""
    with pytest.raises(SessionError) as caught:
        session.load(model)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    # Where a worker keeps its copy is another place each time.
    assert tempfile.gettempdir() not in str(caught.value)
    session.load(network(session.runner))
    session.run(images(1))


@on(*ONNX_RUNNERS)
@pytest.mark.parametrize("domain", ["", "com.acme"])
def test_an_unknown_operator_is_refused_by_name(session: Reused, domain: str) -> None:
    refused(session, unary("NoSuchOperator", domain), says="NoSuchOperator")


@on("ort-cpu")
def test_an_unknown_opset_is_refused(session: Reused) -> None:
    refused(session, unary("Relu", opset=99), says="opset")


@on("openvino")
def test_openvino_reads_an_unknown_opset_as_its_newest_or_refuses_it(session: Reused) -> None:
    """Which of the two is its release's own affair, but it is one of them, and it goes on."""
    try:
        session.load(unary("Relu", opset=99))
    except SessionError:
        refused(session, unary("Relu", opset=99), says="opset")
    else:
        np.testing.assert_array_equal(session.run(UNARY)["y"], np.maximum(UNARY["x"], 0))


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(1000)])
def test_a_file_that_is_no_model_is_refused(session: Reused, data: bytes) -> None:
    refused(session, data)


def test_a_model_of_another_format_is_refused(session: Reused) -> None:
    other = "torch" if session.runner in ONNX_RUNNERS else "ort-cpu"
    refused(session, network(other))


@on(*ONNX_RUNNERS)
@pytest.mark.parametrize(
    "dimensions",
    [[MANY, 3], [3, 3], [1, 3], [-2, -3], [2**32, 2**32], [2**62, 4]],
    ids=str,
)
def test_a_weight_whose_shape_is_not_its_data_is_refused(
    session: Reused, dimensions: list[int]
) -> None:
    weight = TensorProto(
        name="weight", data_type=TensorProto.FLOAT, dims=dimensions, raw_data=bytes(24)
    )
    node = helper.make_node("Add", ["x", "weight"], ["y"])
    float_type = TensorProto.FLOAT
    model = onnx_model([node], {"x": (float_type, [2, 3])}, {"y": (float_type, None)}, [weight])
    refused(session, model)


@on(*ONNX_RUNNERS)
def test_a_model_with_text_outputs_is_refused_or_failed_without_a_crash(
    session: Reused,
) -> None:
    label = numpy_helper.from_array(np.array(["cat"], object), "value")
    model = onnx_model(
        [
            helper.make_node("Constant", [], ["label"], value=label),
            helper.make_node("Relu", ["x"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [2, 3])},
        {"y": (TensorProto.FLOAT, [2, 3]), "label": (TensorProto.STRING, [1])},
    )

    def load_and_run() -> None:
        session.load(model)
        session.run(UNARY)

    with pytest.raises(SessionError):
        load_and_run()


@pytest.mark.parametrize(
    "feeds",
    [
        pytest.param({}, id="missing"),
        pytest.param({"inptu": images(1)["input"]}, id="misnamed"),
        pytest.param({"input": np.zeros((1, 4, 8, 8), np.float32)}, id="channels"),
        pytest.param({"input": np.zeros((3, 3, 8, 8), np.float32)}, id="batch"),
        pytest.param({"input": np.zeros((3, 8, 8), np.float32)}, id="dimensions"),
        pytest.param({"input": np.zeros((1, 3, 8, 0), np.float32)}, id="empty"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_and_the_session_goes_on(
    session: Reused, feeds: Arrays
) -> None:
    session.load(network(session.runner))
    before = session.run(images(1))["logits"]
    with pytest.raises(SessionError):
        session.run(feeds)
    np.testing.assert_array_equal(session.run(images(1))["logits"], before)


# --- tensors of 10^12 elements ---


def huge_constant(shape_is_input: bool) -> tuple[bytes, Arrays]:
    """``max(exp(ones(shape)) + x)``."""
    shape = np.array([MANY, MANY])
    value = numpy_helper.from_array(np.ones(1, np.float32))
    inputs: dict[str, tuple[int, list[int]]] = {"x": (TensorProto.FLOAT, [1])}
    feeds = {"x": np.ones(1, np.float32)}
    if shape_is_input:
        inputs["shape"] = (TensorProto.INT64, [2])
        feeds["shape"] = shape
    model = onnx_model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=value),
            helper.make_node("Exp", ["ones"], ["large"]),
            helper.make_node("Add", ["large", "x"], ["sum"]),
            helper.make_node("ReduceMax", ["sum"], ["y"], keepdims=0),
        ],
        inputs,
        {"y": (TensorProto.FLOAT, [])},
        () if shape_is_input else (numpy_helper.from_array(shape, "shape"),),
    )
    return model, feeds


def huge_expansion() -> tuple[bytes, Arrays]:
    """``expand(x, shape)``: the output itself is too large."""
    model = onnx_model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, [1]), "shape": (TensorProto.INT64, [2])},
        {"y": (TensorProto.FLOAT, [None, None])},
    )
    return model, {"x": np.ones(1, np.float32), "shape": np.array([MANY, MANY])}


def huge_tiling() -> tuple[bytes, Arrays]:
    """``max(tile(x, counts))``."""
    model = onnx_model(
        [
            helper.make_node("Tile", ["x", "counts"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["y"], keepdims=0),
        ],
        {"x": (TensorProto.FLOAT, [1, 1]), "counts": (TensorProto.INT64, [2])},
        {"y": (TensorProto.FLOAT, [])},
    )
    return model, {"x": np.ones((1, 1), np.float32), "counts": np.array([MANY, MANY])}


def huge_program() -> tuple[bytes, Arrays]:
    import torch

    class Huge(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.repeat(MANY, MANY) + 1).amax()

    return program(Huge(), (torch.zeros(1),), ("x",), ("y",)), {"x": np.ones(1, np.float32)}


HUGE: dict[str, tuple[tuple[str, ...], Callable[[], tuple[bytes, Arrays]]]] = {
    "shape is an input": (ONNX_RUNNERS, lambda: huge_constant(shape_is_input=True)),
    "shape is constant": (ONNX_RUNNERS, lambda: huge_constant(shape_is_input=False)),
    "output": (ONNX_RUNNERS, huge_expansion),
    "tiles": (ONNX_RUNNERS, huge_tiling),
    "repeat": (("torch",), huge_program),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("session", "make"),
    [
        pytest.param(runner, make, id=f"{runner}, {name}")
        for name, (runners, make) in HUGE.items()
        for runner in runners
    ],
    indirect=["session"],
    scope="module",
)
def test_a_tensor_too_large_for_any_machine_costs_the_cell_only(
    session: Reused, make: Callable[[], tuple[bytes, Arrays]], threads: int
) -> None:
    model, feeds = make()

    def load_and_run() -> None:
        session.load(model, Settings(threads))
        session.run(feeds)

    with pytest.raises(RunnerError) as caught:
        load_and_run()
    assert not isinstance(caught.value, WorkerTimeout)
    # The same worker if it lives, a new one if it was reported dead.
    session.load(network(session.runner))
    np.testing.assert_allclose(
        session.run(images(1))["logits"], expected_logits(images(1)["input"]), rtol=1e-4
    )


@on(*ONNX_RUNNERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_node_that_fails_while_it_runs_is_an_error(session: Reused, threads: int) -> None:
    model = onnx_model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, [2, 3]), "shape": (TensorProto.INT64, [2])},
        {"y": (TensorProto.FLOAT, [None, None])},
    )
    session.load(model, Settings(threads))
    assert session.run(UNARY | {"shape": np.array([3, 2])})["y"].shape == (3, 2)
    with pytest.raises(SessionError):
        session.run(UNARY | {"shape": np.array([4, 4])})


# --- broken files ---


def truncated(data: bytes, count: int) -> list[bytes]:
    return [data[: number * len(data) // count] for number in range(count)]


def mutated(data: bytes, count: int) -> list[bytes]:
    """Copies of ``data`` with one byte changed, never to what it was."""
    chance = random.Random(0)
    copies = []
    for _ in range(count):
        copy = bytearray(data)
        copy[chance.randrange(len(copy))] ^= chance.randrange(1, 256)
        copies.append(bytes(copy))
    return copies


@pytest.mark.parametrize("damage", [truncated, mutated])
def test_a_damaged_model_gives_a_result_or_an_error(
    session: Reused, damage: Callable[[bytes, int], list[bytes]]
) -> None:
    results, errors = 0, []
    for data in damage(network(session.runner), 40):
        try:
            session.load(data)
            session.run(images(1))
            results += 1
        except WorkerTimeout:
            raise
        except RunnerError as error:
            errors.append(str(error))
    assert errors
    assert all(errors)
    assert results + len(errors) == 40
    session.load(network(session.runner))
    session.run(images(1))
