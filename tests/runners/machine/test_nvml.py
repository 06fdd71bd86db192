"""What NVML says of a GPU, from a library that answers as nvidia-ml-py does."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgepipe.runners.machine import nvml


class Library:
    """A GPU with a process of ours and of somebody else; what is in ``refused`` it can't tell."""

    NVML_CLOCK_SM = 1

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.open = 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "refused"):
            raise RuntimeError("not supported")
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    nvmlDeviceGetCount = staticmethod(lambda: 1)  # noqa: N815
    nvmlDeviceGetHandleByIndex = staticmethod(lambda number: number)  # noqa: N815
    nvmlDeviceGetName = staticmethod(lambda _: b"Some GPU")  # noqa: N815
    nvmlSystemGetDriverVersion = staticmethod(lambda: "580.65.06")  # noqa: N815
    nvmlSystemGetProcessName = staticmethod(lambda _: b"/usr/bin/other")  # noqa: N815
    nvmlDeviceGetUtilizationRates = staticmethod(  # noqa: N815
        lambda _: SimpleNamespace(gpu=37)
    )
    nvmlDeviceGetClockInfo = staticmethod(lambda _gpu, _kind: 1200)  # noqa: N815
    nvmlDeviceGetMaxClockInfo = staticmethod(lambda _gpu, _kind: 1980)  # noqa: N815
    nvmlDeviceGetCurrentClocksEventReasons = staticmethod(lambda _: 0x65)  # noqa: N815

    @staticmethod
    def nvmlDeviceGetComputeRunningProcesses(_gpu: int) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=700 << 20),
            SimpleNamespace(pid=4242, usedGpuMemory=None),
        ]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setitem(sys.modules, "pynvml", found)  # pyright: ignore[reportArgumentType]
    return found


def test_others_clocks_and_what_holds_them_down(library: Library) -> None:
    found = nvml.facts()
    assert (found["reason"], found["driver"], library.open) == (None, "580.65.06", 0)
    assert found["gpus"] == [
        {
            "name": "Some GPU",
            "processes": [{"pid": 4242, "name": "/usr/bin/other", "mib": None}],
            "busy_percent": 37,
            "clock_mhz": 1200,
            "max_clock_mhz": 1980,
            "slowed": ["the power limit", "heat"],
        }
    ]
    assert nvml.memory_mib() == 700.0


def test_what_a_gpu_does_not_tell_is_none(library: Library) -> None:
    library.refused = {
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetCurrentClocksEventReasons",
    }
    (gpu,) = nvml.facts()["gpus"]
    assert (gpu["processes"], gpu["busy_percent"], gpu["slowed"]) == ([], None, None)
    assert (gpu["clock_mhz"], gpu["max_clock_mhz"]) == (1200, None)
    assert nvml.memory_mib() is None


def test_without_a_driver_or_the_library_there_is_a_reason(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.refused = {"nvmlInit"}
    assert nvml.facts() == {"reason": "NVML: not supported", "driver": None, "gpus": []}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.facts()["reason"] == "nvidia-ml-py is not installed"
    assert nvml.memory_mib() is None
