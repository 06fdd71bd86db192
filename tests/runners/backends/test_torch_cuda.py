"""torch on a GPU, without one: what is missing; its sessions with the CPU in the GPU's place."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgepipe.exporters.base import ExportOptions
from edgepipe.exporters.onnx import save_program, trace
from edgepipe.pipeline.cells.plan import abilities_of
from edgepipe.pipeline.settings.machine import Places, RunnerConfig
from edgepipe.runners.backends import torch as backend
from edgepipe.runners.backends.torch import (
    CapturedTorchSession,
    DeviceTorchSession,
    Torch,
    device_of,
    moved,
    probed,
)
from edgepipe.runners.base import Placement, RunnerUnavailable, SessionError, Settings
from edgepipe.runners.testing import BIAS, HEAD, KERNEL, RunnerConformance, onnx_cases
from edgepipe.runners.timing.measure import measure
from edgepipe.runners.timing.plan import Plan

PLACEMENT = Placement("cuda", "f32", 1, {"CUDA": 5}, provider="CUDA")
# With a build of torch for CUDA and a GPU there is nothing missing to be told of.
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def library(cuda: str | None, count: int = 0) -> Any:
    return SimpleNamespace(
        __version__=f"2.13.0+{'cpu' if cuda is None else 'cu130'}",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(device_count=lambda: count),
    )


@pytest.mark.parametrize(
    ("device", "torch_is", "says"),
    [
        ("cuda", library(None), r"torch has no CUDA: torch 2\.13\.0\+cpu; install a build"),
        ("cuda", library("13.0"), r"torch 2\.13\.0\+cu130 finds no GPU, not cuda"),
        ("cuda:1", library("13.0", 1), "finds cuda, not cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_a_reason(device: str, torch_is: Any, says: str) -> None:
    with pytest.raises(RunnerUnavailable, match=says):
        device_of(torch_is, Settings(1, device=device))


@pytest.mark.parametrize(
    ("device", "precision"),
    [("GPU", "f32"), ("cuda:", "f32"), ("cuda", "bf16"), ("CPU", "tf32"), ("xcuda", "f32")],
)
def test_another_device_or_precision_is_refused(device: str, precision: str) -> None:
    with pytest.raises(SessionError, match=f"not {precision} on {device}"):
        device_of(library("13.0", 2), Settings(1, precision, device))


def test_devices_are_called_as_torch_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, name in (("CPU", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")):
        assert device_of(library("13.0", 2), Settings(1, device=device)) == name
    monkeypatch.setattr(backend, "_library", lambda: library("13.0", 2))
    assert Torch().devices() == ("CPU", "cuda", "cuda:1")
    monkeypatch.setattr(backend, "_library", lambda: library(None))
    assert Torch().devices() == ("CPU",)


def test_tf32_is_asked_of_a_gpu_alone() -> None:
    on_gpu = Places(runners={"torch": RunnerConfig(device="cuda")})
    assert abilities_of("torch", Places()).precisions == ("f32",)
    assert abilities_of("torch", on_gpu).precisions == ("f32", "tf32")


def test_the_probe_tells_the_precision_of_torch() -> None:
    assert probed(torch, "cpu") == "f32"


class Network(torch.nn.Module):
    """That of ``onnx_cases``, with a constant of its own on whatever device it is."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 1)
        self.convolution.weight = torch.nn.Parameter(torch.from_numpy(KERNEL[..., None, None]))
        self.convolution.bias = torch.nn.Parameter(torch.from_numpy(BIAS))
        self.head = torch.nn.Parameter(torch.from_numpy(HEAD))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        none = torch.zeros(4, device=pixels.device)
        return (self.convolution(pixels).relu().mean((2, 3)) + none) @ self.head


@functools.cache
def exported() -> bytes:
    options = ExportOptions(18, dynamic_batch=True)
    file = io.BytesIO()
    program = trace(Network().eval(), (torch.zeros(2, 3, 4, 4),), options)
    save_program(program, options, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "network.pt2"
    path.write_bytes(exported())
    return path


class Moved(Torch):
    """``torch`` as it is on a GPU, with the CPU in its place."""

    name = "moved"

    def load(self, model: Path, settings: Settings) -> DeviceTorchSession:
        super().load(model, settings)  # which refuses what there is to refuse
        found, names = backend._program(torch, model)
        placement = replace(PLACEMENT, threads=settings.threads)
        return DeviceTorchSession(moved(found, "cpu"), names, placement, "cpu")


@pytest.mark.long
class TestMoved(RunnerConformance):
    runner = Moved


@pytest.fixture(autouse=True, scope="module")
def cases() -> None:
    files = {"network.pt2": exported()}
    TestMoved.cases = tuple(replace(case, files=files) for case in onnx_cases())


def test_a_program_is_moved_with_what_it_makes_by_itself(program: Path) -> None:
    found, _ = backend._program(torch, program)
    places = {
        str(node.kwargs["device"])
        for node in moved(found, "meta").graph.nodes
        if "device" in node.kwargs
    }
    assert places == {"meta"}


def test_a_run_on_the_device_is_timed_beside_the_others(program: Path) -> None:
    found, names = backend._program(torch, program)
    session = DeviceTorchSession(moved(found, "cpu"), names, PLACEMENT, "cpu")
    result = measure(session, onnx_cases()[0].feeds, Plan(0.02, 8, 5.0, 0.005, 0.05))
    assert result.on_device_ms
    session.close()
    with pytest.raises(SessionError):
        session.resident(onnx_cases()[0].feeds)()


class Graph:
    """A CUDA graph as far as it can be seen: it computes what it was captured of, in place."""

    session: CapturedTorchSession

    def replay(self) -> None:
        with torch.inference_mode():
            results = DeviceTorchSession._computed(self.session, self.session._held)
            for result, fresh in zip(self.session._results, results, strict=True):
                result.copy_(fresh)


@contextmanager
def nothing(*_: object) -> Iterator[None]:
    yield


@pytest.fixture
def captured(program: Path, monkeypatch: pytest.MonkeyPatch) -> CapturedTorchSession:
    found, names = backend._program(torch, program)
    session = CapturedTorchSession(moved(found, "cpu"), names, PLACEMENT, "cpu")
    monkeypatch.setattr(Graph, "session", session, raising=False)
    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name, value in {
        "set_device": lambda _: None,
        "Stream": lambda _: stream,
        "current_stream": lambda _: stream,
        "stream": nothing,
        "graph": nothing,
        "CUDAGraph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return session


def test_a_graph_answers_for_each_of_its_feeds(captured: CapturedTorchSession) -> None:
    case = onnx_cases((3,))[0]
    other = {"input": case.feeds["input"] * 2}
    first = captured.run(case.feeds)
    assert np.allclose(first["logits"], case.reference["logits"], 1e-3, 1e-5)
    kept = first["logits"].copy()
    second = captured.run(other)
    assert not np.allclose(second["logits"], kept)
    again = captured.run(case.feeds)
    assert np.array_equal(again["logits"], kept)
    there = captured.resident(other)
    there()
    there()
    (small,) = onnx_cases((1,))
    with pytest.raises(SessionError, match=r"an input \[3, 3, 4, 4\] takes no \[1, 3, 4, 4\]"):
        captured.run(small.feeds)
    captured.close()
    with pytest.raises(SessionError, match="closed"):
        captured.run(case.feeds)


@without_gpu
@pytest.mark.parametrize("options", [{}, {"cuda_graph": True}])
def test_without_a_gpu_loading_has_a_reason(program: Path, options: Mapping[str, Any]) -> None:
    with pytest.raises(RunnerUnavailable, match=r"torch has no CUDA: torch \d|finds no GPU"):
        Torch().load(program, Settings(1, device="cuda", options=options))
    with pytest.raises(SessionError, match="cuda_graph is for a GPU"):
        Torch().load(program, Settings(1, options={"cuda_graph": True}))
    with pytest.raises(SessionError, match="torch has no option 'compiled'"):
        Torch().load(program, Settings(1, options={"compiled": True}))
