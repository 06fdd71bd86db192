"""What NVIDIA's management library says of the GPUs: who else is on them, and at what clocks.

Its Python binding, nvidia-ml-py, comes with the extra ``cuda``. NVML knows every GPU of the
machine, whatever ``CUDA_VISIBLE_DEVICES`` leaves. Source: NVML API Reference, "Device Queries" and
"NvmlClocksEventReasons".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

# Why clocks are lower than they could be, other than that nobody asks for more.
SLOWED = {
    0x02: "the applications' clock setting",
    0x04: "the power limit",
    0x08: "a hardware slowdown",
    0x20: "heat",
    0x40: "heat",
    0x80: "the power brake",
}


def facts() -> dict[str, Any]:
    """``reason`` is why nothing is known, ``None`` where it is; ``driver`` as "580.65.06".

    ``gpus`` have ``name``, ``processes`` (of others: ``pid``, ``name``, ``mib``), ``busy_percent``,
    ``clock_mhz``, ``max_clock_mhz`` and why they are ``slowed``; ``None`` for what isn't told.
    """
    try:
        with _library() as nvml:
            count = nvml.nvmlDeviceGetCount()
            handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
            gpus = [_about(nvml, handle) for handle in handles]
            return {
                "reason": None,
                "driver": _text(nvml.nvmlSystemGetDriverVersion()),
                "gpus": gpus,
            }
    except ImportError:
        reason = "nvidia-ml-py is not installed"
    except Exception as error:  # NVMLError of many kinds: no driver, no permission
        reason = f"NVML: {error}"
    return {"reason": reason, "driver": None, "gpus": []}


def memory_mib() -> float | None:
    """GPU memory that this process holds, in MiB; ``None`` where nobody can say.

    NVML counts by process, and knows none of them inside some containers.
    """
    try:
        with _library() as nvml:
            used = [
                process.usedGpuMemory
                for number in range(nvml.nvmlDeviceGetCount())
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(
                    nvml.nvmlDeviceGetHandleByIndex(number)
                )
                if process.pid == os.getpid() and process.usedGpuMemory
            ]
    except Exception:  # no library, no driver, no permission: then it isn't measurable
        return None
    return sum(used) / (1 << 20) if used else None


@contextmanager
def _library() -> Iterator[Any]:
    nvml = import_module("pynvml")
    nvml.nvmlInit()
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _about(nvml: Any, handle: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": _text(nvml.nvmlDeviceGetName(handle)), "processes": []}
    found |= dict.fromkeys(("busy_percent", "clock_mhz", "max_clock_mhz", "slowed"))
    # Each by itself: virtual and older GPUs answer some of them with "not supported".
    with suppress(Exception):
        found["processes"] = [
            _process(nvml, one)
            for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if one.pid != os.getpid()
        ]
    with suppress(Exception):
        found["busy_percent"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    with suppress(Exception):
        found["clock_mhz"] = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
    with suppress(Exception):
        found["max_clock_mhz"] = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    with suppress(Exception):
        bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        found["slowed"] = list(dict.fromkeys(why for bit, why in SLOWED.items() if bits & bit))
    return found


def _process(nvml: Any, process: Any) -> dict[str, Any]:
    name = ""
    with suppress(Exception):  # it has ended, or is another user's
        name = _text(nvml.nvmlSystemGetProcessName(process.pid))
    used = process.usedGpuMemory
    return {"pid": process.pid, "name": name, "mib": None if used is None else used >> 20}


def _text(said: str | bytes) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said
