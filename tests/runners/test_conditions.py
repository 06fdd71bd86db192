"""What the machine did meanwhile: read from the real /proc, and from made-up RAPL counters."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgepipe.runners import conditions

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never sleep."""
    command = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in range(count)]
    time.sleep(0.5)  # until they have started
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def rapl(root: Path, name: str, uj: int, *, limit: int = 1000_000_000) -> Path:
    """A powercap zone as the kernel shows it."""
    root.mkdir()
    for file, text in (("name", name), ("energy_uj", uj), ("max_energy_range_uj", limit)):
        (root / file).write_text(f"{text}\n")
    return root


@LINUX
def test_a_busy_neighbour_shows() -> None:
    with busy(2):
        meter = conditions.Meter()
        time.sleep(0.5)
        found = meter.read()
    assert found.others_percent > 20
    assert found.seconds >= 0.5


@LINUX
def test_ones_own_work_is_not_a_neighbours() -> None:
    shares = []
    for _ in range(5):  # others may be busy here, but their share is less in the quietest try
        idle = conditions.Meter()
        time.sleep(0.2)
        others = idle.read().others_percent
        working = conditions.Meter()
        until = time.perf_counter() + 0.2
        while time.perf_counter() < until:
            pass
        shares.append(working.read().others_percent - others)
    assert min(shares) < 25


@LINUX
def test_percentages_are_percentages() -> None:
    meter = conditions.Meter()
    time.sleep(0.05)
    found = meter.read()
    assert 0 <= found.steal_percent <= 100
    assert 0 <= found.others_percent <= 100
    assert found.throttled >= 0


def test_energy_of_all_packages_in_joules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "POWERCAP", tmp_path)
    first = rapl(tmp_path / "intel-rapl:0", "package-0", 5_000_000)
    rapl(tmp_path / "intel-rapl:0:0", "core", 1)
    second = rapl(tmp_path / "intel-rapl:1", "package-1", 999_000_000)
    rapl(tmp_path / "intel-rapl:2", "psys", 1)
    meter = conditions.Meter()
    (first / "energy_uj").write_text("7500000\n")
    (second / "energy_uj").write_text("500000\n")  # started again at 1000 J
    assert meter.read().energy_j == pytest.approx(2.5 + 1.5)
    assert conditions.energy() is None


def test_energy_that_is_not_there_is_absent_with_the_reason_and_not_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "POWERCAP", tmp_path)
    assert conditions.Meter().read().energy_j is None
    assert "no RAPL counters" in (conditions.energy() or "")
    zone = rapl(tmp_path / "intel-rapl:0", "package-0", 1)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # as unreadable as a file of root's, also for root
    assert conditions.Meter().read().energy_j is None
    assert "can't be read" in (conditions.energy() or "")


def test_thermal_events_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "THERMAL", tmp_path)
    folder = tmp_path / "cpu0" / "thermal_throttle"
    folder.mkdir(parents=True)
    (folder / "core_throttle_count").write_text("3\n")
    meter = conditions.Meter()
    (folder / "core_throttle_count").write_text("5\n")
    assert meter.read().throttled == 2
