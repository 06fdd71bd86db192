"""ONNX Runtime's CUDA provider."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import registry
from ...base import Placement, PlacementError, RunnerUnavailable, SessionError, Settings
from ...machine import host
from .. import onnx_file
from ..onnxruntime import (
    OrtSession,
    Provider,
    assigned_nodes,
    create,
    library,
    probed_precision,
    streams_of,
    why_not,
)
from .binding import BoundSession, BoundSessions, Device, DeviceSession

NAME = "ort-cuda"
PROVIDER = "CUDAExecutionProvider"
# Convolutions of float32 tensors may use tensor cores in TF32 (10 bits of mantissa), by default.
# float16 tensors are computed as such: f16 is for files that have them.
USE_TF32 = {"f32": "0", "tf32": "1", "f16": "0"}
# The provider's options with the values that it knows, its default first.
# Source: onnxruntime.ai, "CUDA Execution Provider", "Configuration Options".
PROVIDER_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "prefer_nhwc": (False, True),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
# What is not the provider's: buffers that stay, and a graph of launches, which needs them.
BINDING, GRAPH = "io_binding", "cuda_graph"
SWITCH = (False, True)
# While one run is computed another one's images can be copied.
GRAPHS = 2
CAPTURE = "enable_cuda_graph"
OPTIONS: Mapping[str, tuple[Any, ...]] = {
    **{name: values[1:] for name, values in PROVIDER_OPTIONS.items()},
    BINDING: (True,),
    GRAPH: (True,),
}
DEQUANTIZE = "DequantizeLinear"


class OrtCuda:
    """``ort-cuda``: one NVIDIA GPU, "GPU" or "GPU.1" for the second one."""

    name = NAME
    formats = ("onnx",)
    precisions = tuple(USE_TF32)
    tunables = OPTIONS

    def version(self) -> str:
        """The version of the installed onnxruntime."""
        return library(NAME).__version__

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``. The provider has to run a probe, being listed is nothing."""
        try:
            runtime = library(NAME)
        except RunnerUnavailable as error:
            return str(error)
        remedy = registry.BUILT_IN[NAME].install
        gpu = bool(host.cuda_devices())
        if PROVIDER not in runtime.get_available_providers():
            if not gpu:
                return f"no NVIDIA GPU found (CUDA's driver, libcuda.so.1); with one: {remedy}"
            return f"the onnxruntime installed here has no {PROVIDER}; {remedy}"
        preload()
        reason = why_not(Provider(PROVIDER))
        found = "" if gpu else "no NVIDIA GPU found; "
        return f"{found}{PROVIDER} does not work: {reason}" if reason else None

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        if reason := self.unavailable():
            raise RunnerUnavailable(reason)
        return names_of_devices()

    def load(self, model: Path, settings: Settings) -> OrtSession:
        """See ``Runner.load``.

        f32 and f16 have to be that on the probe. For tf32 the option is read back: it allows TF32,
        and which convolutions use it is cuDNN's choice. A file of float16 tensors is computed in
        f16 where f32 is asked for, too, and says so.
        """
        index = index_of(NAME, settings, self.precisions)
        options = provider_options(settings, index)
        half = onnx_file.holds_half(model)
        if half and settings.precision == "tf32":
            raise SessionError(f"{NAME}: tf32 is for float32 tensors, this file has float16 ones")
        if settings.precision == "f16" and not half:
            raise SessionError(f"{NAME}: f16 is for the variant fp16: this file has no float16")
        if PROVIDER not in library(NAME).get_available_providers():
            raise RunnerUnavailable(self.unavailable() or PROVIDER)
        preload()
        provider = Provider(PROVIDER, options)

        def place(session: Any) -> Placement:
            known = _proven(session, provider, settings, half=half)
            return placed(provider, index, settings, session, known)

        return behind(lambda: _created(model, settings, provider), place, index, settings)


def provider_options(settings: Settings, index: int) -> dict[str, str]:
    """What the provider is told, as text. Raises ``SessionError`` for what it doesn't know."""
    check_options(NAME, settings, {**PROVIDER_OPTIONS, BINDING: SWITCH, GRAPH: SWITCH})
    options = {"device_id": str(index), "use_tf32": USE_TF32[settings.precision]}
    for name, value in settings.options.items():
        if name in PROVIDER_OPTIONS:
            options[name] = value if isinstance(value, str) else str(int(value))
    if settings.options.get(GRAPH):
        options[CAPTURE] = "1"
    return options


def check_options(name: str, settings: Settings, known: Mapping[str, Sequence[Any]]) -> None:
    """Raise ``SessionError`` for an option, or a value of one, that a runner on a GPU has not."""
    settings.refuse_unknown(name, known)
    for option, value in settings.options.items():
        # 1 equals True, and is none here.
        if not any(
            value is one or (type(value) is type(one) and value == one) for one in known[option]
        ):
            listed = ", ".join(map(str, known[option]))
            raise SessionError(f"{name}: {option} is one of {listed}, not {value!r}")
    if settings.options.get(GRAPH) and settings.allow_fallback:
        raise SessionError(f"{GRAPH} needs every node on the GPU, so no fallback is allowed")


def index_of(name: str, settings: Settings, precisions: Collection[str]) -> int:
    """Which GPU that is, in CUDA's order. Raises ``SessionError`` for what the runner hasn't."""
    kind, _, number = settings.device.partition(".")
    if settings.precision not in precisions or kind != "GPU" or not (number or "0").isdigit():
        raise SessionError(
            f"{name} runs {', '.join(precisions)} on GPU, "
            f"not {settings.precision} on {settings.device}"
        )
    return int(number or 0)


def placed(
    provider: Provider, index: int, settings: Settings, session: Any, precision: tuple[str, str]
) -> Placement:
    """Where a session on a GPU runs; ``precision`` is it and how it is known."""
    names = host.cuda_devices()
    return Placement(
        settings.device,
        precision[0],
        settings.threads,
        assigned_nodes(session),
        provider=provider.name,
        device_name=names[index] if index < len(names) else "",
        precision_from=precision[1],
        streams=streams_on_gpu(settings),
    )


def streams_on_gpu(settings: Settings) -> int:
    """Runs side by side. Each CUDA graph is a session of its own, so these are few by default."""
    if settings.streams is None and settings.options.get(GRAPH):
        return GRAPHS
    return streams_of(settings)


def behind(
    make: Callable[[], Any], place: Callable[[Any], Placement], index: int, settings: Settings
) -> OrtSession:
    """Sessions of ``make``, one but for several CUDA graphs, behind the ``Session`` protocol."""
    device = Device("cuda", index)
    if settings.options.get(GRAPH):
        graphs = [
            BoundSession(make(), place, device, captured=True)
            for _ in range(streams_on_gpu(settings))
        ]
        return graphs[0] if len(graphs) == 1 else BoundSessions(graphs)
    if settings.options.get(BINDING):
        return BoundSession(make(), place, device, captured=False)
    return DeviceSession(make(), place, device)


def _created(model: Path, settings: Settings, provider: Provider) -> Any:
    try:
        return create(model, settings, provider)
    except PlacementError as error:
        if DEQUANTIZE not in str(error):
            raise
        raise PlacementError(f"{error}; {registry.BUILT_IN[NAME].remark}") from error


def _proven(session: Any, provider: Provider, settings: Settings, *, half: bool) -> tuple[str, str]:
    """The precision, and how it is known (see ``Placement``); ``SessionError`` if it is wrong."""
    used = session.get_provider_options()[PROVIDER]["use_tf32"]
    if used != USE_TF32[settings.precision]:
        raise SessionError(f"{NAME} has use_tf32={used}, not what {settings.precision} asks for")
    if settings.precision == "tf32":
        return "tf32", "read back"
    # A graph would be captured of the probe's own inputs, which are not bound.
    plain = {name: value for name, value in provider.options.items() if name != CAPTURE}
    precision = probed_precision(replace(provider, options=plain), settings, half=half)
    wanted = "f16" if half else "f32"
    if precision != wanted:
        raise SessionError(f"{NAME} computes in {precision} on this GPU, not in {wanted}")
    return precision, "probed"


def names_of_devices() -> tuple[str, ...]:
    """The GPUs by the names that runners have for them."""
    return ("GPU", *(f"GPU.{number}" for number in range(1, len(host.cuda_devices()))))


@functools.cache
def preload() -> None:
    """Load CUDA and cuDNN from the nvidia wheels, where the dynamic loader would not look."""
    library(NAME).preload_dlls()
