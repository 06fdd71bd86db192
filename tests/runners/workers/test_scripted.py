"""Scripted runners: they answer as a worker does, and start nothing."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline.speed.visits import Schedule
from edgepipe.runners import registry
from edgepipe.runners.base import (
    RunnerUnavailable,
    SessionError,
    Settings,
    TensorSpec,
    WorkerCrashed,
)
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.testing import network, onnx_cases
from edgepipe.runners.workers.launch import Worker
from edgepipe.runners.workers.scripted import HOST, Script, scripted

CASE = onnx_cases((3,))[0]
SCRIPT = Script(
    lambda feeds: network(feeds["input"]),
    (TensorSpec("input", "float32", (None, 3, 4, 4)),),
    (TensorSpec("logits", "float32", (None, 2)),),
)
SETTINGS = Settings(1)


def conversation() -> dict[str, Any]:
    """What every operation of a worker replies: the fields, and the names of the blobs."""
    settings = asdict(SETTINGS)
    plan = asdict(Schedule(seconds=0.01).plan(0))
    load = {"runner": "ort-cpu", "file": "network.onnx", "settings": settings, "cache": None}
    with Worker(LOCAL.argv()) as worker:
        replies = {"hello": (worker.hello, {})}
        for operation, fields, blobs in (
            ("describe", {"runner": "ort-cpu"}, {}),
            ("load", load, CASE.files),
            ("run", {}, CASE.feeds),
            ("measure", {"plan": plan}, CASE.feeds),
        ):
            replies[operation] = worker.request(operation, fields, blobs, 60.0)
    return replies


def form(value: Any) -> Any:
    """The keys of a reply, of what is in it as well, without what they hold."""
    keyed = {"host", "placement", "conditions"}
    if isinstance(value, dict):
        return {key: form(inner) if key in keyed else None for key, inner in value.items()}
    return None


def test_its_replies_have_the_form_of_a_workers() -> None:
    real = conversation()
    with scripted({"ort-cpu": SCRIPT}):
        made = conversation()
    for operation, (reply, blobs) in real.items():
        fields = {key: value for key, value in reply.items() if key not in ("op", "blobs")}
        assert form(made[operation][0]) == form(fields), operation
        assert made[operation][1].keys() == blobs.keys(), operation
    same = made["run"][1]["logits"], real["run"][1]["logits"]
    np.testing.assert_allclose(*same, rtol=1e-5)


def test_it_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with scripted({"ort-cpu": SCRIPT}), Worker(LOCAL.argv()) as worker:
        loaded = worker.load("ort-cpu", CASE.files, SETTINGS)
        assert (loaded.placement.precision, loaded.placement.threads) == ("f32", 1)
        measurement, _ = worker.measure(CASE.feeds, Schedule(seconds=0.01).plan(0))
    assert len(measurement.samples) == SCRIPT.samples


def test_a_variant_has_a_script_of_its_own_and_a_name_becomes_a_plug_in() -> None:
    scripts = {"abacus": SCRIPT, "abacus/int8": SCRIPT.failing(load=WorkerCrashed("boom"))}
    with scripted(scripts), Worker(LOCAL.argv()) as worker:
        assert "abacus" in registry.names()
        worker.load("abacus", {"fp32.onnx": b""}, SETTINGS)
        with pytest.raises(WorkerCrashed, match="boom"):
            worker.load("abacus", {"int8.onnx": b""}, SETTINGS)
        with pytest.raises(RunnerUnavailable, match="no openvino here"):
            worker.describe("openvino")
    assert "abacus" not in registry.names()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(1, precision="bf16"), "runs f32 on CPU, not bf16 on CPU"),
        (Settings(1, device="GPU"), "not f32 on GPU"),
        (Settings(1, options={"spining": False}), "no option 'spining'"),
    ],
)
def test_it_does_nothing_else_than_it_is_asked(settings: Settings, says: str) -> None:
    with (
        scripted({"ort-cpu": SCRIPT}),
        Worker(LOCAL.argv()) as worker,
        pytest.raises(SessionError, match=says),
    ):
        worker.load("ort-cpu", CASE.files, settings)


def test_feeds_that_do_not_fit_are_refused_and_a_fixed_batch_counts() -> None:
    with scripted({"ort-cpu": SCRIPT}), Worker(LOCAL.argv()) as worker:
        worker.load("ort-cpu", CASE.files, SETTINGS)
        worker.run(CASE.feeds)
        for feeds in ({}, {"input": CASE.feeds["input"][0]}, {"input": np.zeros((3, 3, 4, 4))}):
            with pytest.raises(SessionError, match="input input"):
                worker.run(feeds)
        loaded = worker.load("ort-cpu", CASE.files, Settings(1, batch=1))
        assert loaded.inputs[0].shape == (1, 3, 4, 4)
        with pytest.raises(SessionError):
            worker.run(CASE.feeds)


def test_a_command_that_is_lost_greets_nobody() -> None:
    lost = {"qemu-x86_64": RunnerUnavailable("no such command")}
    with scripted({"ort-cpu": SCRIPT}, lost=lost):
        with pytest.raises(RunnerUnavailable, match="no such command") as caught:
            Worker(("qemu-x86_64", "python")).__enter__()
        assert not caught.value.greeted
        with Worker(LOCAL.argv()) as worker:
            assert worker.hello["host"] == HOST
