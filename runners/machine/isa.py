"""Older CPUs that this one can compute as, at full speed: oneDNN, inside OpenVINO, can be told to.

It uses of the CPU what ONEDNN_MAX_CPU_ISA names and nothing newer; where the CPU lacks that, it
uses less and says so nowhere but in its log (oneDNN Developer Guide, "CPU Dispatcher Control",
"Verbose Mode"). So a process asks for both, before the library is loaded, and reads the log.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..targets import ISA_FLAG, ISAS, Isa

# The first is today's name, the second one that oneDNN also reads.
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
LOG = "ONEDNN_VERBOSE"
# What is logged while a primitive is made, never while one runs. Each release of oneDNN writes
# its header, with the instruction set, before the first line of one or the other.
LOGGED = "profile_create,dispatch"
_HEADER = re.compile(r"^onednn_verbose,(?:v\d+,)?info,cpu,isa:(.*?)\s*$", re.MULTILINE)


def cap_of(argv: Sequence[str]) -> Isa | None:
    """What a worker's command line, that of ``Target.argv``, says it is to compute as."""
    return ISAS[argv[-1]] if ISA_FLAG in argv[-2:-1] else None


def compute_as(isa: Isa | None) -> None:
    """Cap oneDNN in this process and those that it starts, before anything has loaded it.

    ``None`` sets it free: a cap that a user's environment brings governs nothing.
    """
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    if isa is not None:
        os.environ |= {VARIABLES[0]: isa.value, LOG: LOGGED}


def lacking(isa: Isa, facts: Mapping[str, Any]) -> str | None:
    """Why a machine can't compute as ``isa``, ``None`` if it can. ``facts``: ``host.facts``."""
    missing = sorted(isa.flags - set(facts["cpu_flags"]))
    if not missing:
        return None
    return f"{facts['cpu']} can't compute as {isa.value}: it has no {', '.join(missing)}"


def capped(isa: Isa, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about a machine that computes as ``isa``: its own, but for what that lacks."""
    flags = [flag for flag in facts["cpu_flags"] if flag in isa.flags]
    return {**facts, "cpu_flags": flags, "isa": isa.value}


@contextmanager
def listening(heard: list[str]) -> Iterator[None]:
    """Until it is left, take what is printed to the original stdout, and keep what oneDNN is.

    ``heard`` gets what oneDNN calls the instruction set that it uses: once in a process, with the
    first primitive that is made. For a process of edgepipe's own, with one thread.
    """
    with tempfile.TemporaryFile() as log:
        kept = os.dup(1)
        os.dup2(log.fileno(), 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what the C library still holds back
            os.dup2(kept, 1)
            os.close(kept)
        log.seek(0)
        heard += _HEADER.findall(log.read().decode("utf-8", "replace"))
