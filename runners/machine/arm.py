"""ARM64 CPUs: what they say of themselves, what they are called, and those that are emulated.

Linux tells a program what its CPU has in the auxiliary vector (getauxval(3); the bits are those of
arch/arm64/include/uapi/asm/hwcap.h), also under an emulator: there it is the emulated CPU's word.
/proc/cpuinfo is a file, which an emulator hands through from the machine below. So an emulated CPU
gets a description of its own in the place of that file: runtimes read it to choose their kernels,
and onnxruntime 1.32 crashes where it names no ARM processor (pytorch/pytorch issue 188255).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from dataclasses import dataclass

MACHINES = ("aarch64", "arm64")
AT_HWCAP, AT_HWCAP2 = 16, 26
# As compilers and Arm's manuals call it: the kernel's name in /proc/cpuinfo, the word, the bit.
FLAGS = {
    "dotprod": ("asimddp", AT_HWCAP, 20),
    "fp16": ("asimdhp", AT_HWCAP, 10),
    "sve": ("sve", AT_HWCAP, 22),
    "i8mm": ("i8mm", AT_HWCAP2, 13),
    "bf16": ("bf16", AT_HWCAP2, 14),
}
ARM_LTD = 0x41
# "CPU part" of Arm's own cores, from arch/arm64/include/asm/cputype.h.
PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4B: "Cortex-A78C",
    0xD4D: "Cortex-A715",
    0xD4F: "Neoverse-V2",
}
_V8 = "fp asimd aes pmull sha1 sha2 crc32"


@dataclass(frozen=True)
class Cpu:
    """An emulated CPU: ``midr`` is its MIDR_EL1 in QEMU (target/arm/cpu64.c), as the kernel's
    "features" are what QEMU says in the auxiliary vector.
    """

    midr: int
    features: str

    @property
    def cpuinfo(self) -> tuple[str, ...]:
        """The lines of one processor in /proc/cpuinfo (arch/arm64/kernel/cpuinfo.c)."""
        return (
            "BogoMIPS\t: 100.00",
            f"Features\t: {self.features}",
            f"CPU implementer\t: {self.midr >> 24:#x}",
            "CPU architecture: 8",
            f"CPU variant\t: {self.midr >> 20 & 0xF:#x}",
            f"CPU part\t: {self.midr >> 4 & 0xFFF:#05x}",
            f"CPU revision\t: {self.midr & 0xF}",
        )

    def described(self, processors: int) -> dict[str, str]:
        """The files that describe a machine with so many of it: path below the root -> text.

        Compute libraries read the second kind, where there is one (Linux, "ARM64 CPU Feature
        Registers").
        """
        blocks = ([f"processor\t: {number}", *self.cpuinfo, "", ""] for number in range(processors))
        files = {"proc/cpuinfo": "".join("\n".join(block) for block in blocks)}
        for number in range(processors):
            path = f"sys/devices/system/cpu/cpu{number}/regs/identification/midr_el1"
            files[path] = f"{self.midr:#018x}\n"
        return files


# By the names that QEMU has for them. The last one has the dot product, no int8 matrix product.
EMULATED = {
    "cortex-a53": Cpu(0x410FD034, f"{_V8} cpuid"),
    "cortex-a72": Cpu(0x410FD083, f"{_V8} cpuid"),
    "cortex-a76": Cpu(0x414FD0B1, f"{_V8} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
}


def is_arm(machine: str | None = None) -> bool:
    """Whether a machine, this one unless named, is ARM64."""
    return (platform.machine() if machine is None else machine) in MACHINES


def flags(cpuinfo: str) -> list[str]:
    """Those of ``FLAGS`` that the kernel lists and the CPU confirms.

    Where one of them tells nothing (no auxiliary vector outside Linux) it is the other's word.
    """
    listed = _values(cpuinfo, "Features")
    vector = _vector()
    return [
        flag
        for flag, (name, word, bit) in FLAGS.items()
        if (listed or vector)
        and (not listed or all(name in features.split() for features in listed))
        and (not vector or vector[word] >> bit & 1)
    ]


def name(cpuinfo: str) -> str:
    """What the cores are called, "Arm Cortex-A53 and Cortex-A72"; empty where nobody knows."""
    implementers = set(_values(cpuinfo, "CPU implementer"))
    parts = dict.fromkeys(_values(cpuinfo, "CPU part"))
    if implementers != {f"{ARM_LTD:#x}"}:
        return ""
    names = [PARTS.get(int(part, 16), f"part {part}") for part in parts]
    return f"Arm {' and '.join(names)}" if names else ""


def _values(cpuinfo: str, key: str) -> list[str]:
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return [value.strip() for found, _, value in pairs if found.strip() == key]


def _vector() -> Mapping[int, int]:
    """The words of the auxiliary vector that tell of the CPU; empty where there is none."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError, TypeError):
        return {}
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return {word: int(getauxval(word)) for word in (AT_HWCAP, AT_HWCAP2)}
