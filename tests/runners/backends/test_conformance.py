"""The conformance test for runners: the built-in ones pass, and each kind of broken one fails."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.exporters.base import ExportOptions
from edgepipe.exporters.onnx import save_program, trace
from edgepipe.exporters.openvino_ir import OpenVinoIr
from edgepipe.runners import testing
from edgepipe.runners.backends.onnxruntime import OrtCpu
from edgepipe.runners.backends.openvino import OpenVino
from edgepipe.runners.backends.torch import Torch
from edgepipe.runners.base import Placement, RunnerUnavailable, SessionError, Settings, TensorSpec
from edgepipe.runners.testing import (
    BIAS,
    HEAD,
    KERNEL,
    Case,
    RunnerConformance,
    network,
    onnx_cases,
)

from ...made import contents


class TestOrtCpu(RunnerConformance):
    runner = OrtCpu


class TestOpenVino(RunnerConformance):
    runner = OpenVino


def torch_module() -> Any:
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 1)
            self.convolution.weight = torch.nn.Parameter(torch.from_numpy(KERNEL[..., None, None]))
            self.convolution.bias = torch.nn.Parameter(torch.from_numpy(BIAS))
            self.head = torch.nn.Parameter(torch.from_numpy(HEAD))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.convolution(pixels).relu().mean((2, 3)) @ self.head

    return Network().eval(), (torch.zeros(2, 3, 4, 4),)


def recast(files: Mapping[str, bytes]) -> tuple[Case, ...]:
    """The cases of the network as ONNX, in another format."""
    return tuple(replace(case, files=files) for case in onnx_cases())


@pytest.fixture(scope="class")
def exported_cases(request: pytest.FixtureRequest) -> None:
    options = ExportOptions(18, dynamic_batch=True)
    module, example = torch_module()
    if request.cls is TestTorch:
        file = io.BytesIO()
        save_program(trace(module, example, options), options, file)
        named = {"network.pt2": file.getvalue()}
    else:
        files = contents(OpenVinoIr().export(module, example, options))
        named = {f"network{suffix}": data for suffix, data in files.items()}
    suite: Any = request.cls
    suite.cases = recast(named)


@pytest.mark.usefixtures("exported_cases")
class TestTorch(RunnerConformance):
    runner = Torch


@pytest.mark.usefixtures("exported_cases")
class TestOpenVinoIr(RunnerConformance):
    runner = OpenVino


def test_the_network_is_the_one_that_is_described() -> None:
    weights = {"kernel": KERNEL.reshape(4, 3, 1, 1), "bias": BIAS, "head": HEAD}
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
        for name, shape in (("input", (3, 4, 4)), ("logits", (2,)))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "kernel", "bias"], ["convolved"]),
            helper.make_node("Relu", ["convolved"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        ],
        "network",
        *values,
        initializer=[numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (case,) = onnx_cases((1,))
    assert case.files["network.onnx"] == model.SerializeToString(deterministic=True)


# A runner of a format that is one line of text, and ways to break it ----------------------------

ABACUS = {"model.abacus": b"the network, in beads\n"}


class AbacusSession:
    inputs = (TensorSpec("input", "float32", (None, 3, 4, 4)),)
    outputs = (TensorSpec("logits", "float32", (None, 2)),)

    def __init__(self, settings: Settings) -> None:
        self.placement = Placement("ABACUS", settings.precision, settings.threads, {"beads": 5})
        self.closed = False

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        if self.closed:
            raise SessionError("closed")
        if "input" not in feeds:
            raise SessionError("no feed for input")
        if feeds["input"].shape[1:] != (3, 4, 4):
            raise SessionError("shape")
        return network(feeds["input"])

    def close(self) -> None:
        self.closed = True


class Abacus:
    name = "abacus"
    formats: Any = ("abacus",)
    precisions: Any = ("f32",)
    session: type = AbacusSession

    def version(self) -> str:
        return "1"

    def unavailable(self) -> str | None:
        return None

    def devices(self) -> tuple[str, ...]:
        return ("ABACUS",)

    def load(self, model: Path, settings: Settings) -> Any:
        if model.read_bytes() != ABACUS["model.abacus"]:
            raise SessionError("not a model of beads")
        if settings.precision not in self.precisions or settings.device != "CPU":
            raise SessionError("no such beads")
        return self.session(settings)


def with_session(**members: Any) -> type[Abacus]:
    session = type("BrokenSession", (AbacusSession,), members)
    return type("Broken", (Abacus,), {"session": session})


def with_runner(**members: Any) -> type[Abacus]:
    return type("Broken", (Abacus,), members)


def run_into_one_buffer(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    outputs = AbacusSession.run(self, feeds)["logits"]
    self.buffer = vars(self).get("buffer", {})
    buffer = self.buffer.setdefault(len(outputs), np.empty_like(outputs))
    buffer[...] = outputs
    return {"logits": buffer}


def run_what_was_fed_last(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    self.last = feeds if "input" in feeds else self.last
    return AbacusSession.run(self, self.last)


def run_remembering_feeds(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    if vars(self).get("seen") is not feeds:
        self.seen, self.outputs_seen = feeds, AbacusSession.run(self, feeds)
    return {name: array.copy() for name, array in self.outputs_seen.items()}


def run_first_image_only(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    outputs = AbacusSession.run(self, feeds)["logits"]
    return {"logits": np.repeat(outputs[:1], len(outputs), 0)}


def run_in_bf16(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    outputs = AbacusSession.run(self, feeds)["logits"]
    return {"logits": (outputs.view(np.uint32) & 0xFFFF0000).view(np.float32)}


def run_writing_to_feeds(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    outputs = AbacusSession.run(self, feeds)
    feeds["input"] -= 1
    return outputs


def run_with_noise(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    outputs = AbacusSession.run(self, feeds)["logits"]
    return {"logits": outputs * np.float32(1 + 1e-6 * np.random.default_rng().random())}


def run_with(change: Any) -> Any:
    return lambda self, feeds: change(AbacusSession.run(self, feeds))


def run_raising(self: Any, feeds: Any) -> dict[str, np.ndarray]:
    return network(feeds["input"])


def load_lazily(self: Any, model: Path, settings: Settings) -> Any:
    session = Abacus.load(self, model, settings)

    def run(feeds: Any) -> dict[str, np.ndarray]:
        model.read_bytes()
        return AbacusSession.run(session, feeds)

    session.run = run
    return session


def load_anything(self: Any, model: Path, settings: Settings) -> Any:
    if settings.precision not in self.precisions or settings.device != "CPU":
        raise SessionError("no such beads")
    return AbacusSession(settings)


def load_raising_its_own(self: Any, model: Path, settings: Settings) -> Any:
    if model.read_bytes() != ABACUS["model.abacus"]:
        raise ValueError("not a model of beads")
    return Abacus.load(self, model, settings)


def load_in_f32(self: Any, model: Path, settings: Settings) -> Any:
    return Abacus.load(self, model, replace(settings, precision="f32"))


def load_on_any_device(self: Any, model: Path, settings: Settings) -> Any:
    return Abacus.load(self, model, replace(settings, device="CPU"))


def placed(**changes: Any) -> type[Abacus]:
    def init(self: Any, settings: Settings) -> None:
        AbacusSession.__init__(self, settings)
        self.placement = replace(self.placement, **changes)

    return with_session(__init__=init)


# The broken runner, the tests that must catch it, and what they must say. Without a list of
# their own those that run it at all may catch it, too.
BROKEN: dict[str, tuple[type[Abacus], set[str], str]] = {
    "formats is text": (with_runner(formats="onnx"), {"describes_itself"}, "formats are 'onnx'"),
    "no precisions": (with_runner(precisions=()), {"describes_itself"}, "precisions are"),
    "no version": (with_runner(version=lambda self: None), {"describes_itself"}, "version None"),
    "no devices": (with_runner(devices=lambda self: ()), {"describes_itself"}, "devices ()"),
    "name with a space": (with_runner(name="abacus "), {"describes_itself"}, "name 'abacus '"),
    "long reason": (
        with_runner(unavailable=lambda self: "first\nsecond"),
        {"describes_itself"},
        "more than one line",
    ),
    "other names": (
        with_session(outputs=(TensorSpec("output0", "float32", (None, 2)),)),
        {"inputs_and_outputs"},
        "['output0']",
    ),
    "other shape": (
        with_session(inputs=(TensorSpec("input", "float32", (1, 3, 4, 4)),)),
        {"inputs_and_outputs"},
        "shape (1, 3, 4, 4)",
    ),
    "other dtype": (
        with_session(inputs=(TensorSpec("input", "float64", (None, 3, 4, 4)),)),
        {"inputs_and_outputs"},
        "float64",
    ),
    "output misnamed": (
        with_session(run=run_with(lambda outputs: {"output0": outputs["logits"]})),
        {"outputs_are_right"},
        "outputs ['output0']",
    ),
    "output of another dtype": (
        with_session(run=run_with(lambda o: {"logits": o["logits"].astype(np.float16)})),
        {"outputs_are_right"},
        "float16",
    ),
    "output of another shape": (
        with_session(run=run_with(lambda o: {"logits": o["logits"][None]})),
        {"outputs_are_right"},
        "shape (1, 1, 2)",
    ),
    "output is a list": (
        with_session(run=run_with(lambda o: {"logits": o["logits"].tolist()})),
        {"outputs_are_right"},
        "a list",
    ),
    "an image for a batch": (
        with_session(run=run_first_image_only),
        {"outputs_are_right"},
        "logits is wrong",
    ),
    "bf16 called f32": (with_session(run=run_in_bf16), {"outputs_are_right"}, "logits is wrong"),
    "reads its file late": (
        with_runner(load=load_lazily),
        {"outputs_are_right"},
        "No such file",
    ),
    "not repeatable": (with_session(run=run_with_noise), {"same_feeds"}, "logits differs"),
    "one buffer": (with_session(run=run_into_one_buffer), {"outlive"}, "logits changed"),
    "writes to feeds": (with_session(run=run_writing_to_feeds), {"left_alone"}, "wrote to"),
    "remembers feeds": (
        with_session(run=run_remembering_feeds),
        {"changed_array"},
        "logits is wrong",
    ),
    "stale feeds": (
        with_session(run=run_what_was_fed_last),
        {"do_not_fit"},
        "input missing raises nothing",
    ),
    "raises its own": (with_session(run=run_raising), {"do_not_fit"}, "KeyError"),
    "loads anything": (
        with_runner(load=load_anything),
        {"no_model"},
        "loading garbage raises nothing",
    ),
    "load raises its own": (
        with_runner(load=load_raising_its_own),
        {"no_model"},
        "ValueError (not a model of beads), not SessionError",
    ),
    "no placement": (placed(nodes={}), {"placement"}, "add up to 0 %"),
    "no device": (placed(device=""), {"placement"}, "no device"),
    "too many threads": (placed(threads=8), {"placement"}, "8 threads, 1 were asked for"),
    "another precision": (
        with_runner(precisions=("f32", "bf16"), load=load_in_f32),
        {"precision"},
        "f32 where bf16 was asked for",
    ),
    "any precision": (
        with_runner(load=lambda self, m, s: placed_as_asked(self, m, s)),
        {"precision"},
        "f32 where f7 was asked for",
    ),
    "first precision fails": (
        with_runner(precisions=("f64", "f32"), load=lambda self, m, s: only_f32(self, m, s)),
        {"precision"},
        "f64 comes first",
    ),
    "any device": (
        with_runner(load=load_on_any_device),
        {"unknown_device"},
        "device NOWHERE raises nothing",
    ),
    "closing does nothing": (
        with_session(close=lambda self: None),
        {"closed"},
        "running a closed session raises nothing",
    ),
}


def placed_as_asked(self: Any, model: Path, settings: Settings) -> Any:
    unknown = settings.precision == testing.UNKNOWN_PRECISION
    return Abacus.load(self, model, replace(settings, precision="f32") if unknown else settings)


def only_f32(self: Any, model: Path, settings: Settings) -> Any:
    if settings.precision == "f64":
        raise SessionError("no f64 today")
    return Abacus.load(self, model, settings)


def failures(runner: type[Any]) -> Iterator[tuple[str, BaseException]]:
    """Every test of the conformance suite that a runner does not pass."""

    class Suite(RunnerConformance):
        cases = recast(ABACUS)

    Suite.runner = runner
    for name in dir(Suite):
        if name.startswith("test_"):
            try:
                getattr(Suite(), name)()
            except SkipTest:
                continue
            except Exception as error:
                yield name, error


def test_the_abacus_passes_before_it_is_broken() -> None:
    assert dict(failures(Abacus)) == {}


@pytest.mark.parametrize(("runner", "tests", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_runner_is_caught(runner: type[Abacus], tests: set[str], says: str) -> None:
    found = dict(failures(runner))
    for test in tests:
        (error,) = (error for name, error in found.items() if test in name)
        assert says in str(error)
        assert isinstance(error, AssertionError | OSError)


SUBTLE = ["not repeatable", "one buffer", "writes to feeds", "remembers feeds", "stale feeds"]
SUBTLE += ["loads anything", "no placement", "another precision", "any device"]


@pytest.mark.parametrize("name", SUBTLE)
def test_what_is_broken_is_what_fails(name: str) -> None:
    runner, tests, _ = BROKEN[name]
    (failed,) = dict(failures(runner))
    assert any(test in failed for test in tests)


def test_an_unavailable_runner_is_skipped_with_its_reason() -> None:
    class Suite(RunnerConformance):
        runner = with_runner(unavailable=lambda self: "no abacus is plugged in")

    Suite().test_it_describes_itself()
    with pytest.raises(SkipTest, match="no abacus is plugged in"):
        Suite().test_outputs_are_right()


def test_the_module_needs_neither_pytest_nor_a_runtime() -> None:
    text = Path(testing.__file__).read_text()
    assert not re.search(r"^\s*(import|from) (pytest|torch|onnx\w*|openvino)\b", text, re.M)


def test_a_runner_that_is_gone_while_loading_is_no_session_error() -> None:
    def load(self: Any, model: Path, settings: Settings) -> Any:
        raise RunnerUnavailable("unplugged")

    found = dict(failures(with_runner(load=load)))
    assert any("outputs_are_right" in name for name in found)
