"""What this process holds, and how fast and how warm the machine is: what a soak watches.

Linux says it in /proc and /sys. What a machine doesn't say is ``None``, never zero.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC, SYS = Path("/proc"), Path("/sys")


@dataclass(frozen=True)
class Usage:
    """A reading. The clock is the mean over the CPUs, the temperature that of the hottest sensor.

    ``rss_mib`` is the resident set now and not its peak, in MiB.
    """

    rss_mib: float | None
    threads: int | None
    descriptors: int | None
    clock_mhz: float | None
    temperature_c: float | None


def read() -> Usage:
    """Of this process, now."""
    status = _read(PROC / "self/status")
    resident, threads = _number(status, "VmRSS:"), _number(status, "Threads:")
    return Usage(
        rss_mib=None if resident is None else resident / 1024,
        threads=None if threads is None else int(threads),
        descriptors=_descriptors(),
        clock_mhz=_clock_mhz(),
        temperature_c=_temperature_c(),
    )


def _descriptors() -> int | None:
    try:
        return len(os.listdir(PROC / "self/fd")) - 1  # without the one that lists them
    except OSError:
        return None


def _clock_mhz() -> float | None:
    """By the driver that sets it (kHz), else what the kernel measured last, as x86 tells it."""
    if sys.platform != "linux":
        return None
    cpus = sorted(os.sched_getaffinity(0))
    folder = SYS / "devices/system/cpu"
    set_khz = _numbers(folder / f"cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in cpus)
    if set_khz:
        return sum(set_khz) / len(set_khz) / 1e3
    lines = [line for line in _read(PROC / "cpuinfo").splitlines() if line.startswith("cpu MHz")]
    found = [float(text) for line in lines if _is_number(text := line.partition(":")[2].strip())]
    return sum(found) / len(found) if found else None


def _temperature_c() -> float | None:
    """Of thermal zones and of hardware monitors, both in thousandths of a degree."""
    zones = (SYS / "class/thermal").glob("thermal_zone*/temp")
    monitors = (SYS / "class/hwmon").glob("hwmon*/temp*_input")
    found = _numbers([*zones, *monitors])
    return max(found) / 1e3 if found else None


def _numbers(files: Iterable[Path]) -> list[float]:
    return [float(text) for file in files if _is_number(text := _read(file).strip())]


def _number(status: str, key: str) -> float | None:
    for line in status.splitlines():
        if line.startswith(key) and _is_number(text := line.split()[1]):
            return float(text)
    return None


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
