"""What the machine did while something was timed: what can spoil a measurement, and energy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

THERMAL = Path("/sys/devices/system/cpu")
POWERCAP = Path("/sys/class/powercap")
STAT = Path("/proc/stat")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

# Fields of the "cpu" line of /proc/stat, in clock ticks (proc_stat(5)).
USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ, STEAL = range(8)


@dataclass(frozen=True)
class Conditions:
    """The circumstances of a timed stretch.

    ``steal_percent`` of the machine's CPU time went to other guests of its host, and
    ``others_percent`` to other processes on it. ``throttled`` counts how often a CPU slowed down
    because of its heat. ``energy_j`` is what the CPU packages used, in joules, everything that
    ran on them included; ``None`` where it can't be read.
    """

    seconds: float
    steal_percent: float = 0.0
    others_percent: float = 0.0
    throttled: int = 0
    energy_j: float | None = None


class Watch:
    """Reads the machine's counters over the stretches between ``resume`` and ``pause``."""

    def __init__(self) -> None:
        self._seconds = self._own = 0.0
        self._spent = [0] * 8
        self._throttled = 0
        self._energy: float | None = 0.0

    def resume(self) -> None:
        """What happens from now on counts."""
        self._before = (_energy_uj(), _throttled(), _ticks(), time.process_time())
        self._started = time.perf_counter()

    def pause(self) -> None:
        """What happens from now on doesn't."""
        self._seconds += time.perf_counter() - self._started
        energy, throttled, ticks, own = self._before
        self._own += time.process_time() - own
        passed = [now - then for now, then in zip(_ticks(), ticks, strict=True)]
        self._spent = [sum(both) for both in zip(self._spent, passed, strict=True)]
        self._throttled += _throttled() - throttled
        used = _joules(energy, _energy_uj())
        self._energy = None if used is None or self._energy is None else self._energy + used

    def read(self) -> Conditions:
        """What happened in all the stretches."""
        spent = self._spent
        total = sum(spent)
        others = 0.0
        if total:
            busy = total - spent[IDLE] - spent[IOWAIT] - spent[STEAL]
            others = max(0.0, busy - self._own * _ticks_per_second()) / total
        return Conditions(
            seconds=self._seconds,
            steal_percent=100 * spent[STEAL] / total if total else 0.0,
            others_percent=100 * others,
            throttled=self._throttled,
            energy_j=self._energy,
        )


def largest_cache() -> int:
    """Bytes of the largest cache of a CPU; 64 MiB where nobody says."""
    sizes = [_read(path).strip() for path in CACHES.glob("index*/size")]
    known = [int(size[:-1]) << 10 for size in sizes if size[:-1].isdigit() and size[-1] == "K"]
    return min(max(known, default=64 << 20), 512 << 20)


def energy() -> str | None:
    """``None`` where the packages' energy can be read, else why it can't."""
    packages = _packages()
    if not packages:
        return "no RAPL counters in /sys/class/powercap"
    try:
        for package in packages:
            (package / "energy_uj").read_text()
    except OSError:
        return f"{packages[0]}/energy_uj can't be read: make it readable for this user"
    return None


def _packages() -> list[Path]:
    """RAPL's package domains (Linux, Documentation/power/powercap/powercap.rst)."""
    found = []
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        # intel-rapl:0:0 is a part of intel-rapl:0; psys (the whole board) has another name.
        if _read(zone / "name").strip().startswith("package-"):
            found.append(zone)
    return found


def _energy_uj() -> dict[Path, int]:
    """Microjoules counted so far by each package; empty if one of them can't be read."""
    counters = {package: _read(package / "energy_uj").strip() for package in _packages()}
    if not all(text.isdigit() for text in counters.values()):
        return {}
    return {package: int(text) for package, text in counters.items()}


def _joules(before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
    if not before or before.keys() != after.keys():
        return None
    used = 0
    for package, count in after.items():
        difference = count - before[package]
        if difference < 0:  # the counter started again at zero
            limit = _read(package / "max_energy_range_uj").strip()
            if not limit.isdigit():
                return None
            difference += int(limit)
        used += difference
    return used / 1e6


def _throttled() -> int:
    """Thermal events of all CPUs since boot; 0 where nobody counts them."""
    counts = [_read(path).strip() for path in THERMAL.glob("cpu*/thermal_throttle/*_count")]
    return sum(int(count) for count in counts if count.isdigit())


def _ticks() -> list[int]:
    """The CPU time of the whole machine since boot by kind; zeros if unknown."""
    fields = _read(STAT).partition("\n")[0].split()[1:9]
    return [int(field) for field in fields] if len(fields) == 8 else [0] * 8


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
