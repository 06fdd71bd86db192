"""What ``edgepipe doctor`` finds out of an NVIDIA GPU: its packages, who else is on it, its clocks.

A driver runs what was built for its own major version of CUDA and for older ones (NVIDIA, "CUDA
Compatibility"); CUDA 13 has no code for GPUs before Turing (its release notes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...runners import registry
from .finding import OK, PROBLEM, WARNING, Facts, Finding

# Compute capability, and the CUDA that has code for nothing older.
TURING, CUDA_SINCE_TURING = (7, 5), 13
FEW = 3
# Somebody else's use of a GPU that numbers show.
BUSY_PERCENT = 5
CUDA = "CUDA"


def cuda(facts: Facts) -> Finding:
    """Whether the driver, the GPU and what is installed for them belong together."""
    seen = facts["cuda"]
    driver, wheel = seen["driver"], seen["wheel"]
    if driver is None:
        if wheel is None:
            return Finding(CUDA, OK, "no NVIDIA driver, and nothing here that needs one")
        what = f"onnxruntime-gpu {wheel} is installed, and there is no NVIDIA driver"
        return Finding(CUDA, WARNING, what, "install the driver (libcuda.so.1), or onnxruntime")
    if not seen["devices"]:
        what = f"a driver for CUDA {driver}, and no GPU that this process may use"
        return Finding(CUDA, WARNING, what, "look at CUDA_VISIBLE_DEVICES and `nvidia-smi`")
    named = ", ".join(f"{one['name']} ({one['capability']})" for one in seen["devices"])
    what = f"{named}, a driver for CUDA {driver}"
    if found := _torch(seen, what):
        return found
    if wheel is None:
        make = registry.BUILT_IN["ort-cuda"].install
        return Finding(CUDA, OK, f"{what}; no onnxruntime-gpu here: {make}")
    return _wheel(seen, what)


def _wheel(seen: Mapping[str, Any], what: str) -> Finding:
    """onnxruntime-gpu beside its libraries, the driver and the GPU."""
    make = registry.BUILT_IN["ort-cuda"].install
    driver, runtime, built = seen["driver"], seen["runtime"], seen["built_for"]
    cudnn = seen["cudnn"] or seen["system_cudnn"]
    what = f"{what}; onnxruntime-gpu {seen['wheel']}"
    if built and _major(built) > _major(driver):
        what = f"{what} is built for CUDA {built}, which is too new for the driver"
        remedy = f"install a driver for CUDA {_major(built)}, or {make}: it picks by the driver"
        return Finding(CUDA, PROBLEM, what, remedy)
    if runtime is None or cudnn is None:
        missing = "CUDA's libraries" if runtime is None else "cuDNN"
        return Finding(
            CUDA,
            WARNING,
            f"{what}; no package here has {missing}: onnxruntime-gpu finds the system's, or none",
            f'{make}, or pip install "onnxruntime-gpu[cuda,cudnn]"',
        )
    origin = "" if seen["cudnn"] else " of the system"
    what = f"{what}, CUDA {runtime}, cuDNN {cudnn}{origin}"
    if _major(runtime) > _major(driver):
        remedy = f"install a driver for CUDA {_major(runtime)}, or packages for {_major(driver)}"
        return Finding(CUDA, PROBLEM, f"{what}: too new for the driver", remedy)
    for name, major in (("CUDA", _major(runtime)), ("cuDNN", seen["cudnn_for"])):
        if built and major and major != _major(built):
            what = f"{what}: {name}'s package is for CUDA {major}, the wheel is built for {built}"
            return Finding(CUDA, PROBLEM, what, make)
    old = [one for one in seen["devices"] if _capability(one) < TURING]
    if old and _major(runtime) >= CUDA_SINCE_TURING:
        what = f"{what}: no code for {old[0]['name']}, which is older than Turing (7.5)"
        return Finding(CUDA, PROBLEM, what, f"{make}, which picks packages for CUDA 12")
    return Finding(CUDA, OK, what)


def _torch(seen: Mapping[str, Any], what: str) -> Finding | None:
    """A build of torch that the driver can't run; one for the CPU is none."""
    built = re.search(r"\+cu(\d+)\d$", seen["torch"] or "")
    if not built or int(built[1]) <= _major(seen["driver"]):
        return None
    what = f"{what}; torch {seen['torch']} is built for CUDA {built[1]}: too new for the driver"
    return Finding(CUDA, WARNING, what, f"a build of torch for CUDA {_major(seen['driver'])}")


def tensorrt(facts: Facts) -> Finding:
    """Whether the TensorRT that is installed is the one that onnxruntime-gpu loads."""
    seen = facts["cuda"]
    have, wanted = seen["tensorrt"], seen["tensorrt_wanted"]
    if have is None:
        make = registry.BUILT_IN["ort-tensorrt"].install
        needed = f"; with it: {make}" if wanted and seen["devices"] else ""
        return Finding("TensorRT", OK, f"no package of it here{needed}")
    if wanted and str(_major(have)) != wanted:
        what = f"{have}, and onnxruntime-gpu {seen['wheel']} loads TensorRT {wanted}"
        remedy = (
            f'pip install "tensorrt-cu{_major(seen["built_for"] or "13")}-libs<{int(wanted) + 1}"'
        )
        return Finding("TensorRT", PROBLEM, what, remedy)
    return Finding("TensorRT", OK, have)


def processes(facts: Facts) -> Finding:
    """Whether somebody else computes on the GPUs."""
    if (unknown := _unknown("GPU load", facts)) is not None:
        return unknown
    gpus = facts["nvml"]["gpus"]
    others = [(one, other) for one in gpus for other in one["processes"]]
    named = ", ".join(_process(other) for _, other in others[:FEW])
    more = f" and {len(others) - FEW} more" if len(others) > FEW else ""
    busy = [one for one in gpus if (one["busy_percent"] or 0) > BUSY_PERCENT]
    use = ", ".join(f"{one['name']} is {one['busy_percent']} % busy" for one in busy)
    if others:
        what = f"others hold memory there: {named}{more}{f'; {use}' if use else ''}"
        return Finding("GPU load", WARNING, what, "let them end before you bench (`nvidia-smi`)")
    if busy:  # as in a container, which sees none of them
        remedy = "`nvidia-smi` on the host tells who; bench when it is idle"
        return Finding("GPU load", WARNING, f"{use}, by nobody seen from here", remedy)
    return Finding("GPU load", OK, "nobody else is on the GPU")


def clocks(facts: Facts) -> Finding:
    """Whether something holds the GPUs' clocks down."""
    if (unknown := _unknown("GPU clocks", facts)) is not None:
        return unknown
    said, slowed = [], []
    for one in facts["nvml"]["gpus"]:
        now, most = one["clock_mhz"], one["max_clock_mhz"]
        rates = f" {now} of {most} MHz" if now and most else " clocks are not told"
        said.append(f"{one['name']}:{rates}")
        if one["slowed"]:
            slowed.append(f"{one['name']}:{rates}, held down by {' and '.join(one['slowed'])}")
    if slowed:
        remedy = (
            "`nvidia-smi -q -d CLOCK,PERFORMANCE,POWER` tells more; -rgc and -rac lift settings"
        )
        return Finding("GPU clocks", WARNING, "; ".join(slowed), remedy)
    return Finding("GPU clocks", OK, f"{'; '.join(said)}, held down by nothing")


def _unknown(check: str, facts: Facts) -> Finding | None:
    """Where nothing can be said: without a GPU that is no matter, with one it is."""
    seen = facts["nvml"]
    if facts["cuda"]["driver"] is None and not seen["gpus"]:
        return Finding(check, OK, "no NVIDIA driver")
    if seen["reason"] is None:
        return None
    remedy = "pip install nvidia-ml-py"
    if "not installed" not in seen["reason"]:
        remedy = "`nvidia-smi` has to work for this user"
    return Finding(check, WARNING, f"not known: {seen['reason']}", remedy)


def _process(other: Mapping[str, Any]) -> str:
    memory = "" if other["mib"] is None else f", {other['mib']} MiB"
    return f"{other['name'] or 'a process'} ({other['pid']}{memory})"


def _capability(device: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, device["capability"].split(".")))


def _major(version: str) -> int:
    return int(version.partition(".")[0])
