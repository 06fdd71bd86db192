"""Where a worker runs: the command that starts a Python there, and nothing else.

This machine, a CPU it emulates or computes as, a box over SSH; a user's own are commands in
``edgepipe.toml``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

WORKER = f"{__package__}.workers.worker"
ISA_FLAG = "--isa"


@dataclass(frozen=True)
class Isa:
    """An instruction set that oneDNN can be capped at.

    ``value`` is oneDNN's own name for it, ``flags`` are what of ``cpuid.BITS`` it has, ``logged``
    how its releases call it in their log. ``emulated`` is a built-in target that emulates such a
    CPU.
    """

    name: str
    value: str
    flags: frozenset[str]
    logged: tuple[str, ...]
    emulated: str | None = None


_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f"}
_VNNI = _AVX512 | {"avx512_vnni"}
_AMX = _VNNI | {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"}
_AMX_LOGGED = (
    "Intel AVX10.1 and Intel AMX with bfloat16 and 8-bit integer support",
    "Intel AVX-512 with float16, Intel DL Boost and bfloat16 support "
    "and Intel AMX with bfloat16 and 8-bit integer support",
)
ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx2", "AVX2", _AVX2, ("Intel AVX2",), "haswell"),
        Isa("avx2-vnni", "AVX2_VNNI", _AVX2 | {"avx_vnni"}, ("Intel AVX2 with Intel DL Boost",)),
        Isa(
            "avx512-core",
            "AVX512_CORE",
            _AVX512,
            ("Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",),
        ),
        Isa("avx512-core-vnni", "AVX512_CORE_VNNI", _VNNI, ("Intel AVX-512 with Intel DL Boost",)),
        Isa("avx512-core-amx", "AVX512_CORE_AMX", _AMX, _AMX_LOGGED),
    )
}


def estimate(value: str) -> str:
    """What is to be said of figures under a cap, by the cap's ``value``."""
    return f"estimate: this CPU computing as {value}"


@dataclass(frozen=True)
class Target:
    """Where a worker runs: the command that starts a Python there.

    ``{python}`` in ``command`` stands for the interpreter that is asked for (this one, unless
    the runner has an environment of its own). ``emulated``: outputs count, timings don't.
    ``isa`` is one of ``ISAS``, the older CPU that oneDNN is to compute as there: outputs count,
    timings are an estimate of that CPU. ``environment`` is the one of ``environments`` whose
    interpreter has to be used there, whatever runner it is for.
    """

    name: str = "local"
    command: tuple[str, ...] = ("{python}",)
    emulated: bool = False
    isa: str | None = None
    environment: str | None = None

    @property
    def estimate(self) -> str | None:
        """What is to be said of all figures that are taken here, ``None`` if nothing is."""
        return None if self.isa is None else estimate(ISAS[self.isa].value)

    def argv(self, python: str = sys.executable, module: str = WORKER) -> list[str]:
        """The full command line of a worker on this target, or of another module."""
        prefix = [part.replace("{python}", python) for part in self.command]
        # Told to the worker and not to its environment: ssh doesn't carry that along.
        cap = [] if self.isa is None else [ISA_FLAG, self.isa]
        return [*prefix, "-P", "-m", module, *cap]

    @classmethod
    def over_ssh(
        cls,
        name: str,
        host: str,
        python: str,
        options: Sequence[str] = (),
        isa: str | None = None,
    ) -> Self:
        """A machine that ``ssh`` reaches, with edgepipe for the interpreter ``python`` there.

        ``options`` are further ones of ssh; they win over edgepipe's.
        """
        # ssh joins its arguments with spaces, and the shell at the other end reads the result.
        home, rest = ("~/", python[2:]) if python.startswith("~/") else ("", python)
        command = ("ssh", *options, *SSH_OPTIONS, "--", host, home + shlex.quote(rest))
        return cls(name, command, isa=isa)


# Never ask anybody anything, notice a machine that is gone, carry nothing but the pipe.
SSH_OPTIONS = (
    *("-T", "-x", "-a"),
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "ControlMaster=no"),
    *("-o", "ClearAllForwardings=yes"),
)
LOCAL = Target()
# A CPU with AVX2 and without VNNI, as many edge boxes have. int8 kernels that saturate there do
# so in the emulation, too: it computes instruction by instruction what the CPU would.
HASWELL = Target("haswell", ("qemu-x86_64", "-cpu", "Haswell", "{python}"), emulated=True)
# This machine at full speed, with OpenVINO's kernels for an older CPU.
CAPPED = tuple(Target(f"isa-{name}", isa=name) for name in ISAS)
# ARM64 CPUs, in an environment that has an interpreter for them: a Raspberry Pi 3's, 4's and 5's.
# Its interpreter is a script that starts QEMU, which takes its CPU from there.
ARM64, ARM64_RUNNERS = "arm64", ("ort-cpu", "openvino")
EMULATED_ARM = tuple(
    Target(name, ("env", f"QEMU_CPU={name}", "{python}"), emulated=True, environment=ARM64)
    for name in ("cortex-a53", "cortex-a72", "cortex-a76")
)
BUILT_IN_TARGETS = {target.name: target for target in (LOCAL, HASWELL, *CAPPED, *EMULATED_ARM)}
# How ssh's last words end, and what to do about it.
SSH_REMEDIES = {
    "Host key verification failed.": "accept its key by connecting once by hand",
    "Permission denied": "it takes a key without a passphrase, or one that ssh-agent holds",
}
_QEMU_USER = "install qemu-user (Debian, Ubuntu: apt-get install qemu-user)"
INSTALL = {
    "ssh": "install openssh-client",
    "qemu-x86_64": _QEMU_USER,
    "qemu-aarch64": _QEMU_USER,
}
