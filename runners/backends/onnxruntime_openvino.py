"""ONNX Runtime's OpenVINO provider: the plug-in on Intel machines, the built-in one elsewhere.

The plug-in (onnxruntime-ep-openvino) goes beside any onnxruntime and takes Intel devices only.
The built-in provider takes any x86 CPU, and comes as a wheel of its own (onnxruntime-openvino)
that can't share an environment with onnxruntime.
"""

from __future__ import annotations

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

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

NAME = "ort-openvino"
PROVIDER = "OpenVINOExecutionProvider"
DEVICES = ("CPU", "GPU", "NPU")
# The built-in provider puts its own precision over the one in load_config, unless it is told
# "ACCURACY"; it has no name for bf16. Source: openvino_parser_utils.cc, basic_backend.cc (1.24).
BUILT_IN_PRECISIONS = {"f32": "FP32", "bf16": "ACCURACY", "f16": "FP16"}


class _Kind(Protocol):
    """One of the two ways to have the provider."""

    def version(self) -> str: ...
    def unavailable(self) -> str | None: ...
    def devices(self) -> dict[str, str]:
        """The devices found, name -> what the device calls itself."""
        ...

    def provider(self, settings: Settings) -> Provider: ...


class OrtOpenVino:
    """``ort-openvino``: OpenVINO inside ONNX Runtime, set for latency where there is one stream."""

    name = NAME
    formats = ("onnx",)
    precisions = tuple(BUILT_IN_PRECISIONS)

    def version(self) -> str:
        """The version of onnxruntime, and of the plug-in where there is one."""
        return _kind().version()

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``. The provider has to run a probe, being listed is nothing."""
        try:
            return _kind().unavailable()
        except RunnerUnavailable as error:
            return str(error)

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        return tuple(_kind().devices())

    def load(self, model: Path, settings: Settings) -> OrtSession:
        """See ``Runner.load``.

        OpenVINO computes in bf16 where the CPU can, unless told otherwise, and the provider
        reads nothing back: the precision is set, and then probed on the same device.
        """
        if settings.precision not in self.precisions:
            raise SessionError(f"{NAME} has no precision {settings.precision!r}")
        settings.refuse_unknown(self.name, {})
        kind = _kind()
        provider = kind.provider(settings)

        def place(session: Any) -> Placement:
            precision = probed_precision(provider, settings)
            if precision != settings.precision:
                raise SessionError(
                    f"{NAME} computes in {precision} on this {settings.device}, "
                    f"not in {settings.precision}"
                )
            return Placement(
                settings.device,
                precision,
                settings.threads,
                assigned_nodes(session),
                provider=PROVIDER,
                device_name=kind.devices().get(settings.device, ""),
                precision_from="probed",
                streams=streams_of(settings),
            )

        return OrtSession(create(model, settings, provider), place)


class _BuiltIn:
    """The provider inside the onnxruntime-openvino wheel."""

    def version(self) -> str:
        return library(NAME).__version__

    def unavailable(self) -> str | None:
        reason = why_not(Provider(PROVIDER, {"device_type": "CPU"}))
        return f"{PROVIDER} does not work: {reason}; {_remedy()}" if reason else None

    def devices(self) -> dict[str, str]:
        found = [name for name in DEVICES if not why_not(Provider(PROVIDER, {"device_type": name}))]
        return {name: host.cpu_name() if name == "CPU" else "" for name in found}

    def provider(self, settings: Settings) -> Provider:
        return Provider(
            PROVIDER,
            {
                "device_type": settings.device,
                "precision": BUILT_IN_PRECISIONS[settings.precision],
                "load_config": _load_config(settings),
            },
        )


class _PlugIn:
    """The provider of onnxruntime-ep-openvino, registered with onnxruntime."""

    def version(self) -> str:
        return f"{library(NAME).__version__}, plug-in {version('onnxruntime-ep-openvino')}"

    def unavailable(self) -> str | None:
        devices = _plugin_devices()
        if not devices:
            return f"onnxruntime-ep-openvino finds no Intel device here; {_remedy()}"
        reason = why_not(Provider(PROVIDER, devices=[next(iter(devices.values()))]))
        return f"{PROVIDER} does not work: {reason}" if reason else None

    def devices(self) -> dict[str, str]:
        return {
            name: device.ep_metadata.get("FULL_DEVICE_NAME", "")
            for name, device in _plugin_devices().items()
        }

    def provider(self, settings: Settings) -> Provider:
        devices = _plugin_devices()
        if settings.device not in devices:
            found = ", ".join(devices) or "none"
            raise RunnerUnavailable(f"{NAME} has no device {settings.device}; found: {found}")
        options = {"load_config": _load_config(settings)}
        return Provider(PROVIDER, options, [devices[settings.device]])


@functools.cache
def _kind() -> _Kind:
    """The built-in provider where the installed onnxruntime has it, else the plug-in.

    Decided once: the plug-in is among the available providers, too, when it is registered.
    """
    runtime = library(NAME)
    return _BuiltIn() if PROVIDER in runtime.get_available_providers() else _PlugIn()


@functools.cache
def _plugin_devices() -> dict[str, Any]:
    """The plug-in's devices by OpenVINO's names for them. Registers it: once in a process."""
    runtime = library(NAME)
    try:
        import onnxruntime_ep_openvino as plugin

        runtime.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except ImportError as error:
        raise registry.missing(NAME, error) from error
    except Exception as error:  # a library that is gone, or that the loader refuses
        raise RunnerUnavailable(f"onnxruntime-ep-openvino: {error}; {_remedy()}") from error
    return {
        device.ep_metadata["ov_device"]: device
        for device in runtime.get_ep_devices()
        if device.ep_name == plugin.get_ep_name()
    }


def _load_config(settings: Settings) -> str:
    """OpenVINO's properties for the device, as inline JSON; values have to be strings."""
    properties = {
        "INFERENCE_PRECISION_HINT": settings.precision,
        "PERFORMANCE_HINT": "LATENCY" if settings.streams == 1 else "THROUGHPUT",
    }
    if settings.device == "CPU":
        streams, threads = str(streams_of(settings)), str(settings.threads)
        properties |= {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads}
    return json.dumps({settings.device.partition(".")[0]: properties}, allow_nan=False)


def _remedy() -> str:
    return registry.BUILT_IN[NAME].install
