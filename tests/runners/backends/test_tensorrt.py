"""ort-tensorrt without a GPU: what its provider is told, what is refused, which engine is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.runners.backends import onnx_file, probe
from edgepipe.runners.backends.nvidia import cuda as onnxruntime_cuda
from edgepipe.runners.backends.nvidia import tensorrt as onnxruntime_tensorrt
from edgepipe.runners.backends.nvidia.tensorrt import OrtTensorRt, profile, provider_options
from edgepipe.runners.backends.onnxruntime import CPU, Provider, create
from edgepipe.runners.base import (
    PlacementError,
    RunnerUnavailable,
    SessionError,
    Settings,
)
from edgepipe.runners.machine import cuda, host
from edgepipe.runners.testing import onnx_cases

GPU = bool(host.cuda_devices())


def settings(kind: str = "f32", /, **options: Any) -> Settings:
    return Settings(2, kind, "GPU", options=options)


OFF = {"device_id": "1", "trt_fp16_enable": "False", "trt_int8_enable": "False"}
ON = {**OFF, "trt_fp16_enable": "True"}


@pytest.mark.parametrize(
    ("asked", "file", "told"),
    [
        (settings(), {}, OFF),
        (settings("f16"), {}, ON),
        (settings(), {"half": True}, ON),
        (settings(), {"quantized": True}, {**OFF, "trt_int8_enable": "True"}),
        (settings("f16"), {"quantized": True}, {**ON, "trt_int8_enable": "True"}),
        (
            settings(builder_optimization_level=5),
            {},
            {**OFF, "trt_builder_optimization_level": "5"},
        ),
        (settings(cuda_graph=True), {}, {**OFF, "trt_cuda_graph_enable": "True"}),
        (settings(io_binding=True), {}, OFF),
        (
            Settings(2, device="GPU", cache="/a place"),
            {},
            {
                **OFF,
                "trt_engine_cache_enable": "True",
                "trt_engine_cache_path": "/a place",
                "trt_engine_cache_prefix": "model",
            },
        ),
    ],
)
def test_the_provider_is_told_in_its_own_words(
    asked: Settings, file: Mapping[str, bool], told: Mapping[str, str]
) -> None:
    """Its switches are "True" and "False": it refuses "1", which ort-cuda's takes."""
    assert provider_options(asked, 1, **file) == told


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (settings(builder_optimization_level=9), "builder_optimization_level is one of 3, 5"),
        (settings(builder_optimization_level=True), "is one of 3, 5, not True"),
        (settings(prefer_nhwc=True), "ort-tensorrt has no option 'prefer_nhwc'"),
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
    for name, values in OrtTensorRt.tunables.items():
        for value in values:
            told = provider_options(settings(**{name: value}), 1)
            assert (name == "io_binding") == (told == OFF)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A network with an open batch, one with another open side, one with Q and DQ, and no model."""

    def value(name: str, shape: list[int | str]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def saved(name: str, nodes: list[Any], shape: list[int | str], constants: list[Any]) -> Path:
        graph = helper.make_graph(nodes, name, [value("x", shape)], [value("y", shape)], constants)
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / name)
        return tmp_path / name

    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    there = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])
    back = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"])
    (network,) = onnx_cases((1,))[0].files.values()
    (tmp_path / "dynamic").write_bytes(network)
    (tmp_path / "none").write_bytes(b"\xff\xff")
    relu = helper.make_node("Relu", ["x"], ["y"])
    return {
        "dynamic": tmp_path / "dynamic",
        "none": tmp_path / "none",
        "wide": saved("wide", [relu], ["batch", 3, "side", 4], []),
        "fixed": saved("fixed", [relu], [2, 3], []),
        "quantized": saved("quantized", [there, back], [1, 3], [scale, zero]),
    }


def test_which_files_quantize(files: Mapping[str, Path]) -> None:
    found = {name for name, path in files.items() if onnx_file.is_quantized(path)}
    assert found == {"quantized"}


@pytest.mark.parametrize(("batch", "shape"), [(None, "1x3x4x4"), (8, "8x3x4x4")])
def test_an_engine_is_for_the_batch_that_is_asked_for(
    files: Mapping[str, Path], batch: int | None, shape: str
) -> None:
    told = profile(files["dynamic"], Settings(1, device="GPU", batch=batch))
    assert told == {
        f"trt_profile_{which}_shapes": f"input:{shape}" for which in ("min", "opt", "max")
    }
    assert profile(files["fixed"], settings()) == profile(files["none"], settings()) == {}
    with pytest.raises(SessionError, match="needs fixed sizes; input x has"):
        profile(files["wide"], settings())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (settings("tf32"), "runs f32, f16 on GPU, not tf32"),
        (Settings(2), "not f32 on CPU"),
        (Settings(2, device="GPU.x"), "on GPU.x"),
    ],
)
def test_a_precision_or_device_that_it_has_not_is_refused(
    files: Mapping[str, Path], asked: Settings, says: str
) -> None:
    with pytest.raises(SessionError, match=says):
        OrtTensorRt().load(files["fixed"], asked)


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_a_gpu_there_is_a_reason_and_a_remedy(files: Mapping[str, Path]) -> None:
    reason = OrtTensorRt().unavailable() or ""
    assert reason.startswith("no NVIDIA GPU found")
    assert reason.endswith("edgepipe env create ort-tensorrt")
    with pytest.raises(RunnerUnavailable, match="no NVIDIA GPU found"):
        OrtTensorRt().load(files["fixed"], settings("f16"))
    with pytest.raises(RunnerUnavailable, match="no NVIDIA GPU found"):
        OrtTensorRt().builds_for()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An onnxruntime-gpu on a machine with a GPU, whose TensorRT provider wants release 10."""
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "capi" / onnxruntime_tensorrt.LIBRARY).write_bytes(b"..libnvinfer.so.10\0..")
    found = SimpleNamespace(
        __file__=str(package / "__init__.py"),
        __version__="1.31.1",
        get_available_providers=lambda: [onnxruntime_tensorrt.PROVIDER, CPU],
    )
    monkeypatch.setattr(onnxruntime_tensorrt, "library", lambda _: found)
    monkeypatch.setattr(onnxruntime_tensorrt, "_load_libraries", lambda: None)
    gpu = {"name": "Some GPU", "capability": "9.0"}
    monkeypatch.setattr(cuda, "devices", lambda: [gpu])
    monkeypatch.setattr(cuda, "facts", lambda: {"devices": [gpu], "driver": "13.0"})
    return found


def test_a_missing_library_or_provider_is_named(
    wheel: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = OrtTensorRt().unavailable() or ""
    assert reason.startswith("no TensorRT 10 here (libnvinfer.so.10)")
    monkeypatch.setattr(onnxruntime_tensorrt, "tensorrt_version", lambda: "10.16.1")
    monkeypatch.setattr(onnxruntime_tensorrt, "_probed", lambda: "no room")
    assert OrtTensorRt().unavailable() == "TensorrtExecutionProvider does not work: no room"
    monkeypatch.setattr(onnxruntime_tensorrt, "_probed", lambda: None)
    assert OrtTensorRt().unavailable() is None
    assert OrtTensorRt().builds_for() == {
        "GPU": "1.31.1, TensorRT 10.16.1, Some GPU 9.0, CUDA 13.0"
    }
    wheel.get_available_providers = lambda: [CPU]
    reason = OrtTensorRt().unavailable() or ""
    assert "has no TensorrtExecutionProvider; edgepipe env create ort-tensorrt" in reason


class Built:
    """What loading makes instead of a session on a GPU: one on the CPU, and an engine's file."""

    def __init__(self, *, engine: bool = True, told: str = "0", probed: str = "f32") -> None:
        self.engine, self.told, self.probed = engine, told, probed
        self.providers: list[Provider] = []

    def create(self, model: Path, settings: Settings, provider: Provider) -> Any:
        self.providers.append(provider)
        if settings.cache and self.engine:
            (Path(settings.cache) / "model_7_sm90.engine").write_bytes(b"engine")
        session = create(model, Settings(1), Provider(CPU))
        options = {onnxruntime_tensorrt.PROVIDER: {"trt_fp16_enable": self.told}}
        return SimpleNamespace(
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            get_provider_options=lambda: options,
            get_provider_graph_assignment_info=session.get_provider_graph_assignment_info,
        )

    def probe(self, provider: Provider, _settings: Settings, *, half: bool) -> str:
        self.providers.append(provider)
        return self.probed


@pytest.fixture
def built(wheel: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Built:
    """A machine where everything is there, as far as the runner can see."""
    made = Built()
    monkeypatch.setattr(onnxruntime_tensorrt, "tensorrt_version", lambda: "10.16.1")
    monkeypatch.setattr(onnxruntime_tensorrt, "_probed", lambda: None)
    monkeypatch.setattr(onnxruntime_tensorrt, "create", made.create)
    monkeypatch.setattr(onnxruntime_tensorrt, "probed_precision", made.probe)
    monkeypatch.setattr(host, "cuda_devices", lambda: ["Some GPU"])
    return made


def test_an_engine_that_was_there_and_stayed_is_one_from_the_cache(
    files: Mapping[str, Path], built: Built, tmp_path: Path
) -> None:
    cache = tmp_path / "a cache"
    cache.mkdir()
    asked = Settings(2, device="GPU", cache=str(cache))
    assert not OrtTensorRt().load(files["fixed"], asked).from_cache
    built.engine = False
    assert OrtTensorRt().load(files["fixed"], asked).from_cache
    built.engine = True  # the provider did not take it and has written another one
    (cache / "model_7_sm90.engine").write_bytes(b"of another GPU")
    assert not OrtTensorRt().load(files["fixed"], asked).from_cache
    assert not OrtTensorRt().load(files["fixed"], settings()).from_cache


@pytest.mark.parametrize(
    ("asked", "file", "told", "probed", "known"),
    [
        ("f32", "fixed", "0", "f32", ("f32", "probed")),
        ("f16", "fixed", "1", "f32", ("f16", "read back")),
        ("f32", "half", "1", "f16", ("f16", "probed")),
        ("f16", "half", "True", "f32", ("f32", "probed")),
    ],
)
def test_a_precision_is_proven_or_read_back(
    files: dict[str, Path], built: Built, tmp_path: Path, asked: str, file: str, told: str,
    probed: str, known: tuple[str, str],
) -> None:  # fmt: skip
    (tmp_path / "half").write_bytes(probe.half_model())
    built.told, built.probed = told, probed
    session = OrtTensorRt().load((files | {"half": tmp_path / "half"})[file], settings(asked))
    assert (session.placement.precision, session.placement.precision_from) == known
    assert (session.placement.device_name, session.placement.provider) == (
        "Some GPU",
        "TensorrtExecutionProvider",
    )


@pytest.mark.parametrize(
    ("asked", "told", "probed", "says"),
    [
        ("f32", "0", "tf32", "computes in tf32 on this GPU, not in f32"),
        ("f32", "1", "f32", "has trt_fp16_enable=1"),
        ("f16", "0", "f32", "has trt_fp16_enable=0"),
    ],
)
def test_a_precision_that_is_another_one_is_an_error(
    files: Mapping[str, Path], built: Built, asked: str, told: str, probed: str, says: str
) -> None:
    built.told, built.probed = told, probed
    with pytest.raises(SessionError, match=says):
        _ = OrtTensorRt().load(files["fixed"], settings(asked)).placement


def test_the_probe_is_built_for_itself_and_for_no_graph(
    files: Mapping[str, Path], built: Built, tmp_path: Path
) -> None:
    asked = Settings(1, device="GPU", options={"cuda_graph": True}, cache=str(tmp_path))
    _ = OrtTensorRt().load(files["dynamic"], asked).placement
    model, proof = built.providers
    assert model.options["trt_profile_opt_shapes"] == "input:1x3x4x4"
    assert model.options["trt_cuda_graph_enable"] == "True"
    assert proof.options["trt_engine_cache_prefix"] == "probe"
    assert not {"trt_profile_opt_shapes", "trt_cuda_graph_enable"} & set(proof.options)


def test_a_fallback_goes_to_cuda_before_the_cpu_and_int8_says_what_tensorrt_takes(
    files: Mapping[str, Path], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    OrtTensorRt().load(files["fixed"], settings())
    assert [name for name, _ in built.providers[0].beside] == [onnxruntime_cuda.PROVIDER]

    def refuse(*_: object) -> None:
        raise PlacementError("takes 1 of the model's 307 nodes, not QuantizeLinear")

    monkeypatch.setattr(onnxruntime_tensorrt, "create", refuse)
    with pytest.raises(PlacementError, match="signed numbers around zero"):
        OrtTensorRt().load(files["quantized"], settings())
    with pytest.raises(PlacementError, match=r"not QuantizeLinear$"):
        OrtTensorRt().load(files["fixed"], settings())
