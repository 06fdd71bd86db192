"""What the machine did meanwhile: from a made-up /proc and RAPL, and once from the real one."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from edgepipe.runners.timing import conditions

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def rapl(root: Path, name: str, uj: int, *, limit: int = 1000_000_000) -> Path:
    """A powercap zone as the kernel shows it."""
    root.mkdir()
    for file, text in (("name", name), ("energy_uj", uj), ("max_energy_range_uj", limit)):
        (root / file).write_text(f"{text}\n")
    return root


class Machine:
    """/proc/stat and the clocks as they would be, and how they go on."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stat, self.own, self.now = root / "stat", 0.0, 0.0
        self.ticks = {"user": 500, "nice": 0, "system": 200, "idle": 9000, "iowait": 40}
        self.ticks |= {"irq": 0, "softirq": 10, "steal": 0}
        monkeypatch.setattr(conditions, "STAT", self.stat)
        monkeypatch.setattr(conditions.time, "process_time", lambda: self.own)
        monkeypatch.setattr(conditions.time, "perf_counter", lambda: self.now)
        self.goes_on(0.0)

    def goes_on(self, own: float, **ticks: int) -> None:
        """A second passes: these ticks are counted, ``own`` seconds of them are this process's."""
        self.own, self.now = self.own + own, self.now + 1.0
        for kind, count in ticks.items():
            self.ticks[kind] += count
        counts = " ".join(str(count) for count in self.ticks.values())
        self.stat.write_text(f"cpu  {counts} 0 0\ncpu0 {counts} 0 0\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def watching() -> conditions.Watch:
    watch = conditions.Watch()
    watch.resume()
    return watch


def stopped(watch: conditions.Watch) -> conditions.Conditions:
    watch.pause()
    return watch.read()


HZ = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("cpus", [1, 2, 128])
@pytest.mark.parametrize(
    ("own", "busy", "stolen", "others"),
    [
        (0.0, 0.0, 0.0, 0),  # nobody does anything
        (0.0, 0.5, 0.0, 50),  # a busy neighbour shows
        (0.5, 0.5, 0.0, 0),  # one's own work is not a neighbour's
        (0.25, 0.75, 0.0, 50),
        (0.0, 0.0, 0.25, 0),  # what the host takes is no neighbour's either
        (0.6, 0.5, 0.0, 0),  # the clocks don't agree to the tick: never below nothing
    ],
)
def test_who_took_the_cpu_time(
    cpus: int, own: float, busy: float, stolen: float, others: float, machine: Machine
) -> None:
    """Shares of one second of so many CPUs."""
    watch = watching()
    ticks = cpus * HZ
    idle = ticks - round(busy * ticks) - round(stolen * ticks)
    machine.goes_on(own * cpus, user=round(busy * ticks), idle=idle, steal=round(stolen * ticks))
    found = stopped(watch)
    assert found.others_percent == pytest.approx(others)
    assert found.steal_percent == pytest.approx(100 * stolen)
    assert found.seconds == 1.0


def test_waiting_for_a_disk_is_nobodys_work(machine: Machine) -> None:
    watch = watching()
    machine.goes_on(0.0, iowait=HZ)
    assert stopped(watch).others_percent == 0


def test_a_machine_that_counts_nothing_has_no_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "STAT", tmp_path / "nothing")
    found = stopped(watching())
    assert (found.others_percent, found.steal_percent) == (0, 0)


@LINUX
def test_percentages_are_percentages() -> None:
    before = conditions._ticks()
    watch = watching()
    time.sleep(0.05)
    found = stopped(watch)
    assert sum(conditions._ticks()) > sum(before) > 0
    assert 0 <= found.steal_percent <= 100
    assert 0 <= found.others_percent <= 100
    assert found.throttled >= 0


def test_energy_of_all_packages_in_joules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "POWERCAP", tmp_path)
    first = rapl(tmp_path / "intel-rapl:0", "package-0", 5_000_000)
    rapl(tmp_path / "intel-rapl:0:0", "core", 1)
    second = rapl(tmp_path / "intel-rapl:1", "package-1", 999_000_000)
    rapl(tmp_path / "intel-rapl:2", "psys", 1)
    watch = watching()
    (first / "energy_uj").write_text("7500000\n")
    (second / "energy_uj").write_text("500000\n")  # started again at 1000 J
    assert stopped(watch).energy_j == pytest.approx(2.5 + 1.5)
    assert conditions.energy() is None


def test_energy_that_is_not_there_is_absent_with_the_reason_and_not_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "POWERCAP", tmp_path)
    assert stopped(watching()).energy_j is None
    assert "no RAPL counters" in (conditions.energy() or "")
    zone = rapl(tmp_path / "intel-rapl:0", "package-0", 1)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # as unreadable as a file of root's, also for root
    assert stopped(watching()).energy_j is None
    assert "can't be read" in (conditions.energy() or "")


def test_thermal_events_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "THERMAL", tmp_path)
    folder = tmp_path / "cpu0" / "thermal_throttle"
    folder.mkdir(parents=True)
    (folder / "core_throttle_count").write_text("3\n")
    watch = watching()
    (folder / "core_throttle_count").write_text("5\n")
    assert stopped(watch).throttled == 2
