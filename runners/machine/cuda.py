"""NVIDIA's GPUs as their driver tells of them, and the CUDA packages that are installed here.

The driver is there wherever a GPU works, and knows of CUDA_VISIBLE_DEVICES.
Source: CUDA Driver API, "Initialization", "Version Management" and "Device Management".
"""

from __future__ import annotations

import ctypes
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from .installed import versions

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
# What onnxruntime-gpu's extras install, for CUDA 13 and for CUDA 12.
RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12")
CUDNNS = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
TENSORRTS = ("tensorrt-cu13-libs", "tensorrt-cu12-libs")
GPU_WHEEL, TORCH = "onnxruntime-gpu", "torch"
# Files of onnxruntime-gpu that say what it was built with.
BUILD = "onnxruntime/capi/build_and_package_info.py"
TENSORRT_PROVIDER = "onnxruntime/capi/libonnxruntime_providers_tensorrt.so"


def facts() -> dict[str, Any]:
    """For ``edgepipe doctor``: ``driver`` is the newest CUDA that the driver can do, as "13.0".

    ``devices`` are ``devices()``; ``runtime``, ``cudnn``, ``tensorrt``, ``wheel`` and ``torch`` are
    versions of packages (``None`` for what isn't installed). ``built_for`` is the CUDA that
    onnxruntime-gpu was built with, ``tensorrt_wanted`` the major version of TensorRT that it loads.
    ``cudnn_for`` is the major version of CUDA that cuDNN's package is for, ``system_cudnn`` the
    version of the one that the loader finds where there is no package.
    """
    found = versions(*RUNTIMES, *CUDNNS, *TENSORRTS, GPU_WHEEL, TORCH)
    cudnn = next((name for name in CUDNNS if found[name]), None)
    return {
        "driver": driver_version(),
        "devices": devices(),
        "runtime": next(filter(None, map(found.get, RUNTIMES)), None),
        "cudnn": cudnn and found[cudnn],
        "cudnn_for": cudnn and int(cudnn.rpartition("cu")[2]),
        "system_cudnn": None if cudnn or not found[GPU_WHEEL] else _system_cudnn(),
        "tensorrt": next(filter(None, map(found.get, TENSORRTS)), None),
        "tensorrt_wanted": _in_wheel(TENSORRT_PROVIDER, rb"libnvinfer\.so\.(\d+)"),
        "wheel": found[GPU_WHEEL],
        "built_for": _in_wheel(BUILD, rb"cuda_version = '([\d.]+)'"),
        "torch": found[TORCH],
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


def driver_version() -> str | None:
    """The newest CUDA that the driver can do, as "13.0"; ``None`` without a driver."""
    driver, version = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _in_wheel(file: str, pattern: bytes) -> str | None:
    """What a file of onnxruntime-gpu says, where that is installed."""
    try:
        found = re.search(
            pattern, Path(str(distribution(GPU_WHEEL).locate_file(file))).read_bytes()
        )
    except (PackageNotFoundError, OSError):
        return None
    return found[1].decode() if found else None


def _system_cudnn() -> str | None:
    """Of the library that the loader finds: 91900 is 9.19.0 (cudnn_version.h)."""
    try:
        number = int(ctypes.CDLL("libcudnn.so.9").cudnnGetVersion())
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _attribute(driver: Any, device: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value
