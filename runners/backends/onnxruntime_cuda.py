"""ONNX Runtime's CUDA provider."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from .. import registry
from ..base import Placement, RunnerUnavailable, SessionError, Settings
from ..machine import host
from .onnxruntime import (
    OrtSession,
    Provider,
    assigned_nodes,
    create,
    library,
    probed_precision,
    streams_of,
    why_not,
)

NAME = "ort-cuda"
PROVIDER = "CUDAExecutionProvider"
# Convolutions of float32 tensors may use tensor cores in TF32 (10 bits of mantissa). It is on by
# default; f16 would be another model, with float16 tensors, and is not claimed.
USE_TF32 = {"f32": "0", "tf32": "1"}


class OrtCuda:
    """``ort-cuda``: one NVIDIA GPU, "GPU" or "GPU.1" for the second one."""

    name = NAME
    formats = ("onnx",)
    precisions = tuple(USE_TF32)

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
        _preload()
        reason = why_not(Provider(PROVIDER))
        found = "" if gpu else "no NVIDIA GPU found; "
        return f"{found}{PROVIDER} does not work: {reason}" if reason else None

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        if reason := self.unavailable():
            raise RunnerUnavailable(reason)
        others = range(1, len(host.cuda_devices()))
        return ("GPU", *(f"GPU.{number}" for number in others))

    def load(self, model: Path, settings: Settings) -> OrtSession:
        """See ``Runner.load``.

        f32 has to be f32 on the probe. For tf32 the option is read back: it allows TF32, and
        which convolutions use it is cuDNN's choice.
        """
        kind, _, number = settings.device.partition(".")
        if settings.precision not in USE_TF32 or kind != "GPU" or not (number or "0").isdigit():
            raise SessionError(
                f"{NAME} runs f32 or tf32 on GPU, not {settings.precision} on {settings.device}"
            )
        settings.refuse_unknown(self.name, {})
        _preload()
        index = int(number or 0)
        options = {"device_id": str(index), "use_tf32": USE_TF32[settings.precision]}
        provider = Provider(PROVIDER, options)

        def place(session: Any) -> Placement:
            names = host.cuda_devices()
            return Placement(
                settings.device,
                settings.precision,
                settings.threads,
                assigned_nodes(session),
                provider=PROVIDER,
                device_name=names[index] if index < len(names) else "",
                precision_from=_proven(session, provider, settings),
                streams=streams_of(settings),
            )

        return OrtSession(create(model, settings, provider), place)


def _proven(session: Any, provider: Provider, settings: Settings) -> str:
    """How the precision is known (see ``Placement``); ``SessionError`` if it is another one."""
    used = session.get_provider_options()[PROVIDER]["use_tf32"]
    if used != USE_TF32[settings.precision]:
        raise SessionError(f"{NAME} has use_tf32={used}, not what {settings.precision} asks for")
    if settings.precision == "tf32":
        return "read back"
    precision = probed_precision(provider, settings)
    if precision != settings.precision:
        raise SessionError(f"{NAME} computes in {precision} on this GPU, not in f32")
    return "probed"


@functools.cache
def _preload() -> None:
    """Load CUDA and cuDNN from the nvidia wheels, where the dynamic loader would not look."""
    library(NAME).preload_dlls()
