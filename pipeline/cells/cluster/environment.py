"""What decides a worker's answers besides what it is sent: versions, sources, kernels.

Two workers whose environments are equal here give the same bits for the same shard. A worker
whose environment differs from this one is refused, and told in what.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ....runners import registry
from ....runners.base import RunnerUnavailable
from ....runners.environments import arm64
from ....runners.machine import host
from ....runners.machine.installed import versions
from ....runners.targets import Target
from ..session import Cell

# What takes part in any shard.
ALWAYS = ("numpy", "pillow", "dask", "distributed")
FLOORS = ("pipeline", "exporters", "runners")
CPU, CORES = "CPU flags", "physical cores"
_NAME = re.compile(r"[\w.-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")
VERSION_SECONDS = 20.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Environment = Mapping[str, str | None]


@dataclass(frozen=True)
class Needs:
    """What of an environment matters for some cells.

    ``distributions`` are packages, ``emulators`` programs. ``kernels``: cells compute on the CPU
    of the worker's own machine. ``cores``: their number decides how work is cut.
    """

    distributions: tuple[str, ...] = ALWAYS
    emulators: tuple[str, ...] = ()
    kernels: bool = False
    cores: bool = False

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Needs:
        """What matters for cells. A runner with an interpreter of its own tells its version."""
        own = {cell.runner for cell in cells if cell.python is None}
        found = {*ALWAYS, *(name for runner in own for name in _distributions(runner))}
        targets = {cell.target for cell in cells}
        emulators = {_emulator(target) for target in targets if target.emulated}
        return cls(
            tuple(sorted(found)),
            tuple(sorted(emulators)),
            any(target.command == ("{python}",) for target in targets),
        )


@cache
def describe(needs: Needs) -> Environment:
    """What matters of this process's environment, by name; ``None`` for what isn't installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "edgepipe": f"{version('edgepipe')} (sources {sources()[:12]})",
        **versions(*needs.distributions),
        **{name: _program(name) for name in needs.emulators},
    }
    if needs.kernels or needs.cores:
        facts = host.facts()
        if needs.kernels:
            found[CPU] = " ".join([facts["machine"], *facts["cpu_flags"]])
        if needs.cores:
            found[CORES] = str(facts["physical_cores"])
    return found


def difference(there: Environment, here: Environment) -> str:
    """In what ``there`` differs, in one line; empty if it doesn't."""
    return ", ".join(
        f"{name} {there[name]}, here {value}" if there.get(name) else f"no {name}, here {value}"
        for name, value in here.items()
        if there.get(name) != value
    )


@cache
def sources() -> str:
    """SHA-256 of edgepipe's own sources: two checkouts of one version may differ."""
    root = Path(__file__).parents[3]
    hasher = hashlib.sha256()
    for floor in FLOORS:
        # The floors lie beside each other in a checkout and in a wheel.
        for path in sorted((root / floor).rglob("*.py")):
            hasher.update(f"{path.relative_to(root).as_posix()}\0".encode())
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()


@cache
def kernel() -> str:
    """Which running kernel this is: equal for processes of one machine."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # no Linux: then every machine is another one
        return platform.node()


def _distributions(runner: str) -> Iterator[str]:
    """The packages behind a runner: those of its extra, or the plug-in's own."""
    try:
        entry = registry.entry(runner)
    except RunnerUnavailable:
        return
    if entry.origin:
        yield entry.origin.split()[0]
    for line in _required():
        extra = _EXTRA.search(line)
        name = _NAME.match(line)
        if name and extra and extra[1] == entry.extra and name[0] != "edgepipe":
            yield name[0]


@cache
def _required() -> tuple[str, ...]:
    try:
        return tuple(requires("edgepipe") or ())
    except PackageNotFoundError:
        return ()


def _emulator(target: Target) -> str:
    """The program that a target emulates its CPU with."""
    return arm64.QEMU if target.environment == arm64.ARM64 else target.command[0]


def _program(name: str) -> str | None:
    """The first line of what a program says of its version."""
    if shutil.which(name) is None:
        return None
    try:
        said = subprocess.run(
            [name, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(said.splitlines()), None)
