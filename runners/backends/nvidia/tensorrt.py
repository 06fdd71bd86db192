"""ONNX Runtime's TensorRT provider, which builds an engine of a model when it is loaded.

An engine is for one file, GPU, precision and shape, and building it takes seconds to minutes: what
``Settings.cache`` holds of an earlier load is used again. Sources: onnxruntime.ai, "TensorRT
Execution Provider"; how its options are spelled from Python, where a switch is "True" or "False":
onnxruntime_pybind_state.cc and the wheel of 1.31.1.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ... import registry
from ...base import Placement, PlacementError, RunnerUnavailable, SessionError, Settings
from ...machine import cuda, host, own_process
from .. import onnx_file
from ..onnxruntime import OrtSession, Provider, create, library, probed_precision, why_not
from . import cuda as on_cuda
from .cuda import BINDING, GRAPH, SWITCH

NAME = "ort-tensorrt"
PROVIDER = "TensorrtExecutionProvider"
LIBRARY = "libonnxruntime_providers_tensorrt.so"
# The module of the wheels tensorrt-cu13-libs and tensorrt-cu12-libs, which loads what it brings.
WHEEL_MODULE = "tensorrt_libs"
PRECISIONS = ("f32", "f16")
LEVEL = "builder_optimization_level"
LEVELS = (3, 5)  # TensorRT's default, and all that it can try
OPTIONS: Mapping[str, tuple[Any, ...]] = {LEVEL: LEVELS[1:], BINDING: (True,), GRAPH: (True,)}
# TensorRT allows TF32 for float32 tensors and the provider has no option for that; this keeps every
# library of NVIDIA's from it. Source: TensorRT's documentation, "Reduced Precision", TF32.
NO_TF32 = ("NVIDIA_TF32_OVERRIDE", "0")
# How files of engines begin: the model's, and those of the probes.
MODEL, PROBE = "model", "probe"
INT8 = (
    "TensorRT takes int8 as signed numbers around zero alone, not the unsigned activations and the "
    "int32 biases of edgepipe's int8: fp16 is the variant for a GPU"
)


class OrtTensorRt:
    """``ort-tensorrt``: one NVIDIA GPU by way of TensorRT, "GPU" or "GPU.1" for the second one."""

    name = NAME
    formats = ("onnx",)
    precisions = PRECISIONS
    tunables = OPTIONS

    def version(self) -> str:
        """The versions of the installed onnxruntime and of TensorRT."""
        return f"{library(NAME).__version__}, TensorRT {tensorrt_version() or 'none'}"

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``. The provider has to build and run a probe, once a process."""
        try:
            runtime = library(NAME)
        except RunnerUnavailable as error:
            return str(error)
        remedy = registry.BUILT_IN[NAME].install
        if not host.cuda_devices():
            return f"no NVIDIA GPU found (CUDA's driver, libcuda.so.1); with one: {remedy}"
        if PROVIDER not in runtime.get_available_providers():
            return f"the onnxruntime installed here has no {PROVIDER}; {remedy}"
        _load_libraries()
        if tensorrt_version() is None:
            return f"no TensorRT {wanted_major()} here (libnvinfer.so.{wanted_major()}); {remedy}"
        reason = _probed()
        return f"{PROVIDER} does not work: {reason}" if reason else None

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        if reason := self.unavailable():
            raise RunnerUnavailable(reason)
        return on_cuda.names_of_devices()

    def builds_for(self) -> dict[str, str]:
        """See ``Builder.builds_for``."""
        facts = cuda.facts()
        found = zip(self.devices(), facts["devices"], strict=True)
        return {
            name: f"{self.version()}, {gpu['name']} {gpu['capability']}, CUDA {facts['driver']}"
            for name, gpu in found
        }

    def load(self, model: Path, settings: Settings) -> OrtSession:
        """See ``Runner.load``.

        f32 has to be that on the probe. For f16 the option is read back: it allows f16, and which
        layers use it is TensorRT's choice, as it is in a file of float16 tensors. What a file
        quantizes is computed in int8, whatever is asked for the rest.
        """
        index = on_cuda.index_of(NAME, settings, PRECISIONS)
        half, quantized = onnx_file.holds_half(model), onnx_file.is_quantized(model)
        options = provider_options(settings, index, half=half, quantized=quantized)
        options |= profile(model, settings)
        if reason := self.unavailable():
            raise RunnerUnavailable(reason)
        beside = ((on_cuda.PROVIDER, {"device_id": str(index), "use_tf32": "0"}),)
        provider = Provider(PROVIDER, options, beside=beside)

        def place(session: Any) -> Placement:
            known = _proven(session, provider, settings, half=half)
            return on_cuda.placed(provider, index, settings, session, known)

        def make() -> Any:
            return _created(model, settings, provider, quantized=quantized)

        before = engines(settings.cache)
        session = on_cuda.behind(make, place, index, settings)
        session.from_cache = bool(before) and engines(settings.cache) == before
        return session


def provider_options(
    settings: Settings, index: int, *, half: bool = False, quantized: bool = False
) -> dict[str, str]:
    """What the provider is told, as text. Raises ``SessionError`` for what it doesn't know."""
    on_cuda.check_options(NAME, settings, {LEVEL: LEVELS, BINDING: SWITCH, GRAPH: SWITCH})
    options = {
        "device_id": str(index),
        "trt_fp16_enable": str(half or settings.precision == "f16"),
        "trt_int8_enable": str(quantized),
    }
    if LEVEL in settings.options:
        options[f"trt_{LEVEL}"] = str(settings.options[LEVEL])
    if settings.options.get(GRAPH):
        options["trt_cuda_graph_enable"] = "True"
    if settings.cache:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": settings.cache,
            "trt_engine_cache_prefix": MODEL,
        }
    return options


def profile(model: Path, settings: Settings) -> dict[str, str]:
    """The shapes that an engine is built for, where the model leaves its batch open.

    Told beforehand: the engine would else be built, and built anew, by the runs. Raises
    ``SessionError`` where another side than the first is open.
    """
    try:
        shapes = onnx_file.inputs(model)
    except (ValueError, OSError):  # loading it says what is wrong with it
        return {}
    if all(None not in shape for shape in shapes.values()):
        return {}
    for name, shape in shapes.items():
        if None in shape[1:]:
            raise SessionError(f"{NAME} needs fixed sizes; input {name} has {shape}")
    fixed = ",".join(
        f"{name}:{'x'.join(str(size or settings.batch or 1) for size in shape)}"
        for name, shape in shapes.items()
    )
    return {f"trt_profile_{which}_shapes": fixed for which in ("min", "opt", "max")}


def engines(folder: str | None) -> dict[str, int]:
    """The model's engines in a cache by name, with when each was written (ns)."""
    found = Path(folder).glob(f"{MODEL}*.engine") if folder else ()
    return {path.name: path.stat().st_mtime_ns for path in found}


def wanted_major() -> str:
    """The major version of TensorRT that this onnxruntime's provider is linked to; "" unknown."""
    place = Path(library(NAME).__file__).parent / "capi" / LIBRARY
    try:
        found = re.search(rb"libnvinfer\.so\.(\d+)", place.read_bytes())
    except OSError:
        return ""
    return found[1].decode() if found else ""


def tensorrt_version() -> str | None:
    """Of the library that the provider would use, ``None`` if that isn't here.

    Source: NvInferRuntime.h, ``getInferLibVersion``: 101601 is 10.16.1.
    """
    try:
        number = int(ctypes.CDLL(f"libnvinfer.so.{wanted_major()}").getInferLibVersion())
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _created(model: Path, settings: Settings, provider: Provider, *, quantized: bool) -> Any:
    try:
        return create(model, settings, provider)
    except PlacementError as error:
        if not quantized:
            raise
        raise PlacementError(f"{error}; {INT8}") from error


def _proven(session: Any, provider: Provider, settings: Settings, *, half: bool) -> tuple[str, str]:
    """The precision, and how it is known (see ``Placement``); ``SessionError`` if it is wrong."""
    told = session.get_provider_options()[PROVIDER]["trt_fp16_enable"]
    allowed = str(told).lower() in ("1", "true")
    if allowed != (half or settings.precision == "f16"):
        raise SessionError(f"{NAME} has trt_fp16_enable={told}, not what was asked for")
    if settings.precision == "f16" and not half:
        return "f16", "read back"
    precision = probed_precision(_for_probe(provider), settings, half=half)
    if precision != "f32" and not (half and precision == "f16"):
        wanted = "f16" if half else "f32"
        raise SessionError(f"{NAME} computes in {precision} on this GPU, not in {wanted}")
    return precision, "probed"


def _for_probe(provider: Provider) -> Provider:
    """For a model of other inputs, which are not bound to where a graph was captured."""
    dropped = ("trt_profile_", "trt_cuda_graph_enable")
    options = {
        name: value for name, value in provider.options.items() if not name.startswith(dropped)
    }
    if "trt_engine_cache_prefix" in options:
        options["trt_engine_cache_prefix"] = PROBE
    return replace(provider, options=options)


@functools.cache
def _probed() -> str | None:
    return why_not(Provider(PROVIDER))


@functools.cache
def _load_libraries() -> None:
    """CUDA's and cuDNN's from their wheels, and TensorRT's from its own where it is installed."""
    if own_process.claimed():  # before any of them looks
        os.environ.update([NO_TF32])
    on_cuda.preload()
    with suppress(ImportError, OSError):  # then the system's are looked for
        import_module(WHEEL_MODULE)
