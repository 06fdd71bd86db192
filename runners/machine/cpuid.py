"""What an x86 CPU says of itself to this very process, by way of the C library.

/proc/cpuinfo is the kernel's word. Under a user-mode emulator it is the word of the kernel
outside, about another CPU than the one that the program runs on. glibc asks the CPU at the start
of every program and tells what it found (glibc manual, "X86"; sys/platform/x86.h, since 2.33).
Bits: Intel SDM volume 2A, "CPUID", tables 3-8 and 3-17; AMD's are the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from importlib import import_module

# glibc's number for the leaf, register (eax, ebx, ecx, edx), bit; names as in /proc/cpuinfo.
LEAF_1, LEAF_7, LEAF_7_1 = 0, 1, 6
BITS = {
    "avx2": (LEAF_7, 1, 5),
    "fma": (LEAF_1, 2, 12),
    "avx512f": (LEAF_7, 1, 16),
    "avx512_vnni": (LEAF_7, 2, 11),
    "avx_vnni": (LEAF_7_1, 0, 4),
    "avx512_bf16": (LEAF_7_1, 0, 5),
    "amx_tile": (LEAF_7, 3, 24),
    "amx_int8": (LEAF_7, 3, 25),
    "amx_bf16": (LEAF_7, 3, 22),
}
NUMPY_NAMES = {
    "fma": "FMA3",
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
}
REGISTERS = 4


def flags() -> frozenset[str] | None:
    """Those of ``BITS`` that the CPU has and the kernel lets programs use; ``None`` if not told.

    That is on other machines than x86, and with another C library than glibc 2.33 and later.
    """
    try:
        leaf_of = ctypes.CDLL(None).__x86_get_cpuid_feature_leaf
    except (AttributeError, OSError, TypeError):  # not there; no library by that name (Windows)
        return None
    # struct cpuid_feature: the registers as the CPU gives them, then what of them is usable.
    leaf_of.restype = ctypes.POINTER(ctypes.c_uint32 * (2 * REGISTERS))
    leaf_of.argtypes = [ctypes.c_uint32]
    return frozenset(
        name
        for name, (leaf, register, bit) in BITS.items()
        if leaf_of(leaf).contents[REGISTERS + register] >> bit & 1
    )


def by_numpy(listed: Collection[str]) -> frozenset[str] | None:
    """Those of the kernel's flags that numpy's own look at the CPU bears out, ``None`` without one.

    numpy knows a part of them. If it misses one of those the kernel speaks of another CPU, and
    nothing that numpy doesn't know is taken from the kernel either.
    """
    try:  # not numpy's public interface, and an attribute that a release may drop
        found: Mapping[str, bool] = import_module("numpy._core._multiarray_umath").__cpu_features__
    except (ImportError, AttributeError):
        return None
    asked = {flag: found[name] for flag, name in NUMPY_NAMES.items() if name in found}
    emulated = any(not asked.get(flag, True) for flag in listed)
    return frozenset(flag for flag in listed if asked.get(flag, not emulated))
