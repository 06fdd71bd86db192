"""Facts about the machine that a worker runs on. Linux says most of it in /proc and /sys."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..base import SessionError
from ..timing import conditions
from . import arm, cpuid, cuda

# What decides how int8 and reduced precision run, on x86 and on ARM64.
RELEVANT_FLAGS = (*cpuid.BITS, *arm.FLAGS)
# The line of a virtual environment's pyvenv.cfg that names what its interpreter is emulated by.
EMULATOR_KEY = "emulator"
UNLIMITED = 1 << 62


def facts() -> dict[str, Any]:
    """What a reader of a result needs to know about the machine it came from."""
    cpuinfo = _read("/proc/cpuinfo")
    flags = _field(cpuinfo, "flags").split()
    return {
        "name": platform.node(),
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "emulator": emulator(),
        "cpu_flags": arm.flags(cpuinfo) if arm.is_arm() else cpu_flags(flags),
        "physical_cores": physical_cores(),
        "logical_cpus": len(_cpus()),
        "total_cpus": os.cpu_count() or 1,
        "cpu_quota": cpu_quota(),
        "governor": governor(),
        "virtual_machine": "hypervisor" in flags,
        "no_energy": conditions.energy(),
        "memory_mib": min(_meminfo("MemTotal") * 1024, memory_limit()[0]) >> 20,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def cpu_flags(listed: Collection[str]) -> list[str]:
    """Those of an x86 CPU's ``RELEVANT_FLAGS`` that the kernel lists and it itself confirms.

    The kernel knows what it keeps from programs, the CPU whether it is an emulated one. What the
    C library doesn't tell numpy may know; where the kernel lists nothing the CPU's word is all.
    """
    found = cpuid.flags()
    if found is None:
        found = cpuid.by_numpy([flag for flag in cpuid.BITS if flag in listed])
    return [
        flag
        for flag in cpuid.BITS
        if (not listed or flag in listed) and (found is None or flag in found)
    ]


def saturates(facts: Mapping[str, Any]) -> bool:
    """Whether int8 kernels of a machine add pairs of products in 16 bits, which can overflow.

    So do those of x86 CPUs without VNNI or AMX (Intel, "Lower Numerical Precision Deep Learning
    Inference and Training", 2018). ``facts`` are those of ``facts()``.
    """
    x86 = facts.get("machine") in ("x86_64", "AMD64", "i686")
    return x86 and not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(facts.get("cpu_flags", ()))


def cpu_name() -> str:
    """What the CPU calls itself."""
    cpuinfo = _read("/proc/cpuinfo")
    name = arm.name(cpuinfo) if arm.is_arm() else _field(cpuinfo, "model name")
    return name or platform.processor() or platform.machine()


def emulator() -> str | None:
    """What emulates the CPU of an environment that is made for it, ``None`` for any other.

    Its own word: what a program sees of the machine below says nothing of an emulator.
    """
    lines = (line.partition("=") for line in _read(Path(sys.prefix, "pyvenv.cfg")).splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == EMULATOR_KEY), None)


def refuse_emulated() -> None:
    """Raise ``SessionError`` where the CPU is emulated: how long something takes there is not its.

    See ``emulator``.
    """
    if found := emulator():
        raise SessionError(f"the CPU is emulated by {found}: timings there mean nothing")


def cuda_devices() -> list[str]:
    """The names of the NVIDIA GPUs that this process may use, in CUDA's order; often none."""
    return [device["name"] for device in cuda.devices()]


def physical_cores() -> int:
    """Physical cores that this process may use: its CPU affinity, siblings counted once."""
    cores = set()
    for cpu in _cpus():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        package = _read(topology / "physical_package_id").strip()
        core = _read(topology / "core_id").strip()
        cores.add((package, core) if core else cpu)
    quota = cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def cpu_quota() -> float | None:
    """CPUs' worth of time that a container's quota allows (cgroup v2), ``None`` without one."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    return None


def governor() -> str | None:
    """How Linux picks the clock rate of the CPUs, if it is Linux that does."""
    text = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return text.strip() or None


def load() -> float | None:
    """Processes that wanted a CPU, on average over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_rss_mib() -> float:
    """The largest resident set of this process so far, in MiB.

    From VmHWM where there is one: ru_maxrss survives exec on Linux, so that a child started
    by a large parent would report the parent's.
    """
    high_water = _field(_read("/proc/self/status"), "VmHWM").split()
    if high_water:
        return int(high_water[0]) / 1024
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def limit_memory(share: float = 0.9) -> None:
    """Cap this process's data segment at a share of the memory that is free now.

    An allocation that can't be served then fails inside the runner, which reports it, instead
    of waking the kernel's OOM killer, which may pick the parent.
    """
    available = free_memory()
    if available and sys.platform == "linux":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = int(available * share)
        if soft == resource.RLIM_INFINITY or limit < soft:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def free_memory() -> int:
    """Bytes that a process could still have here: the kernel's estimate or the container's rest."""
    limit, used = memory_limit()
    return max(0, min(_meminfo("MemAvailable") * 1024, limit - used))


def memory_limit(cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes that a container may have and those that it has, by cgroup v2 or v1; else no limit.

    What it has is counted without the cache of files that the kernel can drop at once.
    """
    for folder, most, now, cache in (
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = (_read(cgroups / folder / name).strip() for name in (most, now))
        if limit.isdigit() and used.isdigit():
            stat = _read(cgroups / folder / "memory.stat").splitlines()
            dropped = sum(int(line.split()[1]) for line in stat if line.split()[:1] == [cache])
            return int(limit), max(0, int(used) - dropped)
    return UNLIMITED, 0


def _cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _meminfo(key: str) -> int:
    words = _field(_read("/proc/meminfo"), key).split()
    return int(words[0]) if words else 0


def _field(text: str, key: str) -> str:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == key:
            return value.strip()
    return ""


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
