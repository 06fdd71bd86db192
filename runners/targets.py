"""Where a worker runs: the command that starts a Python there, and nothing else.

This machine, a CPU it emulates, a box over SSH; a user's own are commands in ``edgepipe.toml``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

WORKER = f"{__package__}.workers.worker"


@dataclass(frozen=True)
class Target:
    """Where a worker runs: the command that starts a Python there.

    ``{python}`` in ``command`` stands for the interpreter that is asked for (this one, unless
    the runner has an environment of its own). ``emulated``: outputs count, timings don't.
    """

    name: str = "local"
    command: tuple[str, ...] = ("{python}",)
    emulated: bool = False

    def argv(self, python: str = sys.executable, module: str = WORKER) -> list[str]:
        """The full command line of a worker on this target, or of another module."""
        prefix = [part.replace("{python}", python) for part in self.command]
        return [*prefix, "-P", "-m", module]

    @classmethod
    def over_ssh(cls, name: str, host: str, python: str, options: Sequence[str] = ()) -> Self:
        """A machine that ``ssh`` reaches, with edgepipe for the interpreter ``python`` there.

        ``options`` are further ones of ssh; they win over edgepipe's.
        """
        # ssh joins its arguments with spaces, and the shell at the other end reads the result.
        home, rest = ("~/", python[2:]) if python.startswith("~/") else ("", python)
        command = ("ssh", *options, *SSH_OPTIONS, "--", host, home + shlex.quote(rest))
        return cls(name, command)


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
BUILT_IN_TARGETS = {target.name: target for target in (LOCAL, HASWELL)}
# How ssh's last words end, and what to do about it.
SSH_REMEDIES = {
    "Host key verification failed.": "accept its key by connecting once by hand",
    "Permission denied": "it takes a key without a passphrase, or one that ssh-agent holds",
}
INSTALL = {
    "ssh": "install openssh-client",
    "qemu-x86_64": "install qemu-user (Debian, Ubuntu: apt-get install qemu-user)",
}
