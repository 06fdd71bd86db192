"""What an x86 CPU says of itself to this very process: the CPUID instruction, called directly.

/proc/cpuinfo is the kernel's word. Under a user-mode emulator it is the word of the kernel
outside, about another CPU than the one that the program runs on.
Bits: Intel SDM volume 2A, "CPUID", tables 3-8 and 3-17; AMD's are the same.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import struct
from collections.abc import Collection, Mapping
from importlib import import_module

# leaf, subleaf, register (eax, ebx, ecx, edx), bit
BITS = {
    "fma": (1, 0, 2, 12),
    "avx2": (7, 0, 1, 5),
    "avx512f": (7, 0, 1, 16),
    "avx512_vnni": (7, 0, 2, 11),
    "amx_bf16": (7, 0, 3, 22),
    "amx_tile": (7, 0, 3, 24),
    "amx_int8": (7, 0, 3, 25),
    "avx_vnni": (7, 1, 0, 4),
    "avx512_bf16": (7, 1, 0, 5),
}
NUMPY_NAMES = {
    "fma": "FMA3",
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
}
# void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4]), System V calling convention.
CODE = bytes.fromhex(
    "53"  # push rbx, which the caller wants back
    "4989d0"  # mov r8, rdx
    "89f8 89f1"  # mov eax, edi; mov ecx, esi
    "0fa2"  # cpuid
    "418900 41895804 41894808 4189500c"  # mov [r8], eax; [r8+4], ebx; [r8+8], ecx; [r8+12], edx
    "5b c3"  # pop rbx; ret
)


@functools.cache
def flags() -> frozenset[str] | None:
    """Those of ``BITS`` that the CPU has; ``None`` where it can't be asked.

    That is on other machines than x86-64 Linux, and where a process may not make code
    executable. Whether the kernel lets a feature be used is not looked at here.
    """
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(CODE)
    start = ctypes.c_char.from_buffer(page)  # keeps the page from being unmapped
    signature = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    call = signature(ctypes.addressof(start))

    def ask(leaf: int, subleaf: int) -> tuple[int, ...]:
        registers = ctypes.create_string_buffer(16)
        call(leaf, subleaf, registers)
        return struct.unpack("<4I", registers.raw)

    highest = ask(0, 0)[0]
    answers = {(1, 0): ask(1, 0)}
    if highest >= 7:
        answers[7, 0] = ask(7, 0)
        if answers[7, 0][0] >= 1:  # eax of subleaf 0: the highest subleaf
            answers[7, 1] = ask(7, 1)
    return frozenset(
        name
        for name, (leaf, subleaf, register, bit) in BITS.items()
        if (leaf, subleaf) in answers and answers[leaf, subleaf][register] >> bit & 1
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
