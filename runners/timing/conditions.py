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


class Meter:
    """Reads the machine's counters when made and again in ``read``."""

    def __init__(self) -> None:
        self._energy = _energy_uj()
        self._throttled = _throttled()
        self._ticks = _ticks()
        self._own = time.process_time()
        self._started = time.perf_counter()

    def read(self) -> Conditions:
        """What has happened since the meter was made."""
        seconds = time.perf_counter() - self._started
        own = time.process_time() - self._own
        spent = [after - before for after, before in zip(_ticks(), self._ticks, strict=True)]
        total = sum(spent)
        others = 0.0
        if total:
            busy = sum(spent) - spent[IDLE] - spent[IOWAIT] - spent[STEAL]
            others = max(0.0, busy - own * _ticks_per_second()) / total
        return Conditions(
            seconds=seconds,
            steal_percent=100 * spent[STEAL] / total if total else 0.0,
            others_percent=100 * others,
            throttled=_throttled() - self._throttled,
            energy_j=_joules(self._energy, _energy_uj()),
        )


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
