"""ARM64 CPUs by what Linux says of them. The texts are /proc/cpuinfo of such boards, cut short."""

from __future__ import annotations

import pytest

from edgepipe.runners.machine import arm

BASE = "fp asimd evtstrm crc32 cpuid"
DOT = f"{BASE} atomics fphp asimdhp asimddp"


def cpuinfo(*cores: tuple[str, str], implementer: str = "0x41") -> str:
    return "".join(
        f"processor\t: {number}\nFeatures\t: {features}\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU part\t: {part}\n\n"
        for number, (part, features) in enumerate(cores)
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (cpuinfo(("0xd08", BASE)), "Arm Cortex-A72"),
        (cpuinfo(("0xd05", DOT), ("0xd05", DOT), ("0xd0b", DOT)), "Arm Cortex-A55 and Cortex-A76"),
        (cpuinfo(("0xfff", BASE)), "Arm part 0xfff"),
        (cpuinfo(("0x001", BASE), implementer="0x48"), ""),
        ("model name\t: AMD EPYC\nflags\t: fpu avx2\n", ""),
    ],
    ids=["one", "two kinds", "unknown", "another maker", "x86"],
)
def test_cores_are_called_by_their_part(text: str, name: str) -> None:
    assert arm.name(text) == name


@pytest.mark.parametrize(
    ("text", "dotprod", "flags"),
    [
        (cpuinfo(("0xd0b", DOT)), True, ["dotprod", "fp16"]),
        (cpuinfo(("0xd0b", DOT)), False, ["fp16"]),
        (cpuinfo(("0xd03", BASE), ("0xd0b", DOT)), True, []),
        ("", True, ["dotprod", "fp16"]),
    ],
    ids=["both", "not the CPU", "not all cores", "no list"],
)
def test_a_flag_is_one_of_every_core_that_the_cpu_confirms(
    text: str, dotprod: bool, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {arm.AT_HWCAP: dotprod << 20 | 1 << 10, arm.AT_HWCAP2: 0}
    monkeypatch.setattr(arm, "_vector", lambda: words)
    assert arm.flags(text) == flags


def test_without_an_auxiliary_vector_the_list_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm, "_vector", dict)
    assert arm.flags(cpuinfo(("0xd0b", f"{DOT} i8mm"))) == ["dotprod", "fp16", "i8mm"]
    assert arm.flags("") == []
