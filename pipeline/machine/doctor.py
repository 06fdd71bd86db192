"""``edgepipe doctor``: what about this machine and its packages would make a result wrong.

A check is a function from the facts that a worker gathered to one ``Finding``. It measures
nothing and imports no runtime, so that it also works where a runtime no longer does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...runners import registry
from ...runners.base import RunnerError
from ...runners.bundles.index import ARM_NEEDS
from ...runners.environments import environments
from ...runners.machine import isa
from ...runners.machine.files import temporary_folder
from ...runners.machine.installed import FOLDERS, TELEMETRY_SWITCH
from ...runners.targets import ARM64, CAPPED, EMULATED_ARM, ISAS, LOCAL, Target
from ...runners.workers.launch import Worker
from ..cells.plan import python_of
from ..errors import ExitCode, UsageError
from ..settings.load import load
from ..settings.machine import DoctorRequest, Places
from ..settings.options import takes
from ..settings.speed import GENERATIONS
from ..storage.document import Document
from . import gpu
from .finding import OK, PROBLEM, WARNING, Facts, Finding

VNNI = {"avx512_vnni", "avx_vnni"}
BUSY_SHARE = 0.5
STALE_SECONDS = 24 * 3600
# More than bench has by itself.
MANY_GENERATIONS = 2 * GENERATIONS


@dataclass(frozen=True)
class Diagnosis(Document):
    """Every finding of every place that was looked at."""

    MADE_BY = "edgepipe doctor"

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> ExitCode:
        """1 for a problem; a warning is none."""
        sick = any(finding.status == PROBLEM for finding in self.findings)
        return ExitCode.GATE_FAILED if sick else ExitCode.OK


@takes(DoctorRequest)
def doctor(request: DoctorRequest) -> Diagnosis:
    """Look for what would make numbers or installs wrong: the machine and its packages.

    The checks are run on every target, and on the environments that runners have of their own.
    Raises ``UsageError`` for a target that is unknown, emulated, or computes as another CPU;
    everything else is a finding.
    """
    places, targets = load(request.flags()).places, request.targets
    findings: list[Finding] = []
    for target in map(places.target, targets):
        if target.emulated:
            raise UsageError(f"target {target.name} is emulated: doctor looks at real machines")
        if target.isa is not None:
            raise UsageError(
                f"target {target.name} computes as another CPU: doctor looks at real machines"
            )
        findings += _examine(target, sys.executable, target.name, MACHINE_CHECKS + PACKAGE_CHECKS)
    if LOCAL.name in targets:
        findings += [emulated_arm(), leftovers(temporary_folder()), cap(os.environ)]
        for runner in registry.names():
            findings += _of_runner(runner, places)
    return Diagnosis(tuple(findings))


def _of_runner(runner: str, places: Places) -> list[Finding]:
    """Of the environment that a runner has of its own, configured or made for it."""
    try:
        python = python_of(runner, places)
    except RunnerError as error:
        remedy = f"edgepipe env create {runner}"
        return [Finding("environment", PROBLEM, str(error), remedy, runner)]
    if python is None:
        return []
    on_gpu = registry.device(runner) == "GPU"
    checks = PACKAGE_CHECKS + (GPU_CHECKS if on_gpu else ())
    return _examine(LOCAL, python, f"{runner} ({python})", checks)


def _examine(
    target: Target, python: str, where: str, checks: Sequence[Callable[[Facts], Finding]]
) -> list[Finding]:
    try:
        with Worker(target.argv(python)) as worker:
            facts = worker.inspect()
    except RunnerError as error:
        remedy = "make it start: `edgepipe runners` asks every one"
        return [Finding("worker", PROBLEM, str(error), remedy, where)]
    return [replace(check(facts), where=where) for check in checks]


def cores(facts: Facts) -> Finding:
    """How many cores a bench gets, and whether something keeps others from it."""
    host = facts["host"]
    physical, logical, total = host["physical_cores"], host["logical_cpus"], host["total_cpus"]
    what = f"{physical} physical cores to use, {logical} of {total} logical CPUs"
    quota = host["cpu_quota"]
    if quota is not None and quota < logical:
        return Finding(
            "cores",
            WARNING,
            f"{what}; a container's quota of {quota:g} CPUs stops the process in bursts",
            "lift the quota and pin CPUs instead (docker run --cpuset-cpus)",
        )
    if logical < total:
        what += ": this process is bound to them"
    return Finding("cores", OK, what)


def int8_kernels(facts: Facts) -> Finding:
    """Which int8 variant the CPU computes exactly."""
    host = facts["host"]
    flags = set(host["cpu_flags"])
    if host["machine"] not in ("x86_64", "AMD64"):
        able = ", ".join(flag for flag in ARM_NEEDS if flag in flags) or "no dot product"
        return Finding("int8", OK, f"{host['machine']}, {able}: none of x86's int8 pitfalls")
    if "amx_int8" in flags:
        return Finding("int8", OK, "AMX: int8 is exact; use the variant int8")
    if flags & VNNI:
        return Finding("int8", OK, "VNNI, no AMX: int8 is exact; use the variant int8")
    missing = "no VNNI, no AMX" if "avx2" in flags else "not even AVX2"
    return Finding(
        "int8",
        WARNING,
        f"{missing}: int8 kernels add in 16 bits and may saturate",
        "ship int8-avx2, and judge what you ship with `edgepipe parity` on this machine",
    )


def older_cpus(facts: Facts) -> Finding:
    """Which older CPUs the one at hand can stand for."""
    able = [
        target.name
        for target in CAPPED
        if target.isa and not isa.lacking(ISAS[target.isa], facts["host"])
    ]
    if not able:
        return Finding("older CPUs", OK, "it can compute as none of those that OpenVINO knows")
    return Finding("older CPUs", OK, f"openvino can compute as one: --target {', '.join(able)}")


def emulated_arm() -> Finding:
    """Whether ARM64 CPUs can be emulated here, and with which runtimes."""
    able = ", ".join(target.name for target in EMULATED_ARM)
    again = f"edgepipe env create {ARM64}"
    environment = environments.find(ARM64)
    if environment is None:
        return Finding(ARM64, OK, f"no environment for --target {able}: {again} makes it")
    if problem := environment.problem() or environment.damage():
        return Finding(ARM64, WARNING, f"{environment.folder}: {problem}", again)
    lock = environment.packages
    found = [f"{name} {lock[name]['version']}" for name in FOLDERS if name in lock]
    return Finding(ARM64, OK, f"{', '.join(found)} for --target {able}")


def cap(environment: Mapping[str, str]) -> Finding:
    """Whether this shell tells oneDNN to compute as an older CPU, which workers don't hear."""
    found = [f"{name}={environment[name]}" for name in isa.VARIABLES if environment.get(name)]
    if not found:
        return Finding("oneDNN", OK, "nothing keeps it from the CPU's newest instructions")
    return Finding(
        "oneDNN",
        WARNING,
        f"{', '.join(found)} is set: edgepipe's workers drop it, your own programs obey it",
        f"unset it; to compute as an older CPU, --target {CAPPED[0].name} and the like",
    )


def governor(facts: Facts) -> Finding:
    """Whether the clock rate is left to a governor that saves power."""
    name = facts["host"]["governor"]
    if name is None:
        return Finding("governor", OK, "Linux does not set the clock rate here")
    if name == "performance":
        return Finding("governor", OK, "performance")
    return Finding(
        "governor",
        WARNING,
        f"{name}: the clock rate follows the load, and short runs see a slow CPU",
        "cpupower frequency-set --governor performance",
    )


def virtual_machine(facts: Facts) -> Finding:
    """Whether the CPU is what it seems to be, and nobody else uses the same cores."""
    if emulator := facts["host"]["emulator"]:
        return Finding(
            "machine",
            WARNING,
            f"{facts['host']['cpu']}, emulated by {emulator}: timings are refused",
            "judge answers here (parity, evaluate, verify), and bench on the machine itself",
        )
    if not facts["host"]["virtual_machine"]:
        return Finding("machine", OK, f"{facts['host']['cpu']}, no virtual machine")
    return Finding(
        "machine",
        WARNING,
        f"{facts['host']['cpu']} in a virtual machine: neighbours share its cores",
        f"trust ratios over times; bench --generations {MANY_GENERATIONS} narrows their intervals",
    )


def busy(facts: Facts) -> Finding:
    """Whether other programs are at work now."""
    load, cpus = facts["load"], facts["host"]["total_cpus"]
    if load is None:
        return Finding("load", OK, "not known here")
    what = f"{load:.1f} processes wanted one of {cpus} CPUs over the last minute"
    if load > BUSY_SHARE * cpus:
        return Finding("load", WARNING, what, "let the other programs end before you bench")
    return Finding("load", OK, what)


def colliding_wheels(facts: Facts) -> Finding:
    """Whether two distributions wrote to the same import folder."""
    owners = facts["installed"]["owners"]
    for folder, distributions in owners.items():
        names = sorted({distribution["name"] for distribution in distributions})
        if len(names) > 1:
            return Finding(
                "wheels",
                PROBLEM,
                f"{' and '.join(names)} own the same folder {folder}: the last one installed "
                "has overwritten the others",
                f"pip uninstall {' '.join(names)}, then install one of them again; "
                "another runner's wheel goes into an environment of its own",
            )
    found = [f"{one['name']} {one['version']}" for group in owners.values() for one in group]
    if not found:
        return Finding("wheels", PROBLEM, "no runtime is installed", 'pip install "edgepipe[cpu]"')
    return Finding("wheels", OK, ", ".join(found))


def damaged_wheels(facts: Facts) -> Finding:
    """Whether the files on the disk are those that the wheels brought."""
    for distributions in facts["installed"]["owners"].values():
        for distribution in distributions:
            if distribution["damaged"]:
                name, version = distribution["name"], distribution["version"]
                return Finding(
                    "files",
                    PROBLEM,
                    f"{name} {version}: missing or not the wheel's: "
                    f"{', '.join(distribution['damaged'])}",
                    f"pip install --force-reinstall --no-deps {name}=={version}",
                )
    return Finding("files", OK, "the runtimes' files are those of their wheels")


def openvino_releases(facts: Facts) -> Finding:
    """Whether everything here computes with the same OpenVINO."""
    releases = {
        f"{distribution['name']} {distribution['version']}": distribution["openvino"]
        for distributions in facts["installed"]["owners"].values()
        for distribution in distributions
        if distribution["openvino"]
    }
    if len(set(releases.values())) > 1:
        having = ", ".join(f"{name} has {release}" for name, release in releases.items())
        return Finding(
            "openvino",
            WARNING,
            f"different releases of OpenVINO: {having}",
            "install releases that match before you compare ort-openvino with openvino",
        )
    return Finding("openvino", OK, next(iter(releases.values()), "not installed"))


def telemetry(facts: Facts) -> Finding:
    """Whether onnxruntime would report to its makers."""
    found = facts["installed"]["telemetry"]
    if not found["capable"]:
        return Finding("telemetry", OK, "no onnxruntime that collects it")
    if found["switch"] == "1":
        return Finding(
            "telemetry",
            OK,
            f"onnxruntime collects it; edgepipe sets {TELEMETRY_SWITCH}=1, your own programs "
            "have to do so themselves",
        )
    return Finding(
        "telemetry",
        WARNING,
        f"onnxruntime collects it, and {TELEMETRY_SWITCH} is {found['switch']!r}",
        f"unset {TELEMETRY_SWITCH}, or set it to 1",
    )


def leftovers(folder: Path) -> Finding:
    """Temporary folders of runs that were killed, older than a day."""
    stale = [path for path in folder.glob("edgepipe-*") if _is_stale(path)]
    if not stale:
        return Finding("leftovers", OK, f"nothing of killed runs in {folder}")
    return Finding(
        "leftovers",
        WARNING,
        f"{len(stale)} temporary folders of killed runs in {folder}, such as {stale[0].name}",
        f"find {folder} -maxdepth 1 -name 'edgepipe-*' -mtime +0 -exec rm -r {{}} +",
    )


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:  # gone meanwhile
        return False


# In a runner's own environment there may be a library for these that isn't here.
GPU_CHECKS = (gpu.processes, gpu.clocks)
MACHINE_CHECKS = (
    *(cores, int8_kernels, older_cpus, governor, virtual_machine, busy),
    *GPU_CHECKS,
)
PACKAGE_CHECKS = (
    *(colliding_wheels, damaged_wheels, openvino_releases),
    *(gpu.cuda, gpu.tensorrt, telemetry),
)
