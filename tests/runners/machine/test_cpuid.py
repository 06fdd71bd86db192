"""CPU features from the CPU itself: the kernel's list natively, the emulated CPU's under qemu."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgepipe.runners.machine import arm, cpuid, host

ASK = """
import json
from edgepipe.runners.machine import cpuid, host, own_process
CLAIM
print(json.dumps([sorted(cpuid.flags()), host.facts()["cpu_flags"], host.saturates(host.facts())]))
"""
linux = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="needs x86-64 Linux"
)


def listed() -> set[str]:
    """What the kernel lists of the flags that count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    return {flag for flag in host.RELEVANT_FLAGS if flag in flags}


@linux
def test_the_cpu_confirms_what_the_kernel_lists() -> None:
    found = cpuid.flags()
    assert found is not None
    assert listed() <= found <= set(cpuid.BITS)
    assert set(host.facts()["cpu_flags"]) == listed()


def test_every_flag_that_counts_can_be_asked_for() -> None:
    assert {*cpuid.BITS, *arm.FLAGS} == set(host.RELEVANT_FLAGS)


@linux
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
@pytest.mark.parametrize("claim", ["own_process.claim()", ""], ids=["worker", "application"])
@pytest.mark.parametrize(("cpu", "flags"), [("Haswell", {"avx2", "fma"}), ("SandyBridge", set())])
def test_an_emulated_cpu_is_asked_and_not_the_one_below(
    cpu: str, flags: set[str], claim: str
) -> None:
    """/proc/cpuinfo is the build machine's there; SandyBridge came before AVX2."""
    command = ["qemu-x86_64", "-cpu", cpu, sys.executable, "-c", ASK.replace("CLAIM", claim)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, facts, saturates = json.loads(done.stdout)
    assert set(found) == flags
    assert set(facts) == flags & listed()
    assert saturates


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", ["avx2"], True),
        ("x86_64", [], True),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", ["avx2", "avx512_vnni"], False),
        ("x86_64", ["amx_int8"], False),
        ("aarch64", [], False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(
    machine: str, flags: list[str], saturates: bool
) -> None:
    assert host.saturates({"machine": machine, "cpu_flags": flags}) == saturates


@linux
def test_where_the_kernel_lists_nothing_the_cpu_is_still_known() -> None:
    assert set(host.cpu_flags([])) == listed()


@linux
def test_an_old_c_library_leaves_it_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpuid, "flags", lambda: None)
    assert set(host.cpu_flags(listed())) == listed()
    assert host.cpu_flags([]) == []


@linux
def test_numpy_bears_out_the_kernel_on_the_cpu_that_is_there() -> None:
    assert cpuid.by_numpy(listed()) == listed()


@pytest.mark.parametrize(
    ("found", "known"),
    [
        ({"AVX2": True, "FMA3": True, "AVX512F": False}, {"avx2", "fma"}),
        ({"AVX2": False, "FMA3": True}, {"fma"}),
        ({"AVX2": True}, {"avx2", "fma", "avx512f", "avx_vnni", "amx_int8"}),
    ],
)
def test_where_numpy_misses_a_flag_the_kernel_is_believed_in_nothing(
    found: dict[str, bool], known: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    umath = sys.modules["numpy._core._multiarray_umath"]
    monkeypatch.setattr(umath, "__cpu_features__", found)
    assert cpuid.by_numpy({"avx2", "fma", "avx512f", "avx_vnni", "amx_int8"}) == known
