"""NVIDIA's GPUs as their driver tells of them, and the CUDA packages that are installed here.

The driver is there wherever a GPU works, and knows of CUDA_VISIBLE_DEVICES.
Source: CUDA Driver API, "Initialization", "Version Management" and "Device Management".
"""

from __future__ import annotations

import ctypes
from typing import Any

from .installed import versions

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
# What onnxruntime-gpu's extras install, for CUDA 13 and for CUDA 12.
RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12")
CUDNNS = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
GPU_WHEEL = "onnxruntime-gpu"


def facts() -> dict[str, Any]:
    """For ``edgepipe doctor``: ``driver`` is the newest CUDA that the driver can do, as "13.0".

    ``devices`` are ``devices()``; ``runtime``, ``cudnn`` and ``wheel`` are versions of packages
    (``None`` for what isn't installed).
    """
    found = versions(*RUNTIMES, *CUDNNS, GPU_WHEEL)
    return {
        "driver": _driver_version(),
        "devices": devices(),
        "runtime": next(filter(None, map(found.get, RUNTIMES)), None),
        "cudnn": next(filter(None, map(found.get, CUDNNS)), None),
        "wheel": found[GPU_WHEEL],
    }


def devices() -> list[dict[str, Any]]:
    """The GPUs that this process may use, in CUDA's order: ``name``, and ``capability`` as "9.0".

    Often none.
    """
    driver, count = _driver(), ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, len(name), device)
        major, minor = (
            _attribute(driver, device, one) for one in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
        )
        text = name.value.decode("utf-8", "replace")
        found.append({"name": text, "capability": f"{major}.{minor}"})
    return found


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _driver_version() -> str | None:
    driver, version = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _attribute(driver: Any, device: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value
