"""The environment ``arm64``: an ARM64 system with the runtimes, for an emulator on this machine.

It looks like any virtual environment, but that ``bin/python`` is a script: it starts QEMU with the
CPU that ``QEMU_CPU`` names. Python takes the script for itself, so that processes which it starts
are emulated, too. For each CPU there is a view of the system, in which what describes the machine
(/proc/cpuinfo) describes that CPU: QEMU looks there first, and hands through what isn't there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..backends import probe
from ..base import RunnerError, RunnerOptionError, RunnerUnavailable, Settings
from ..machine import arm
from ..machine.host import EMULATOR_KEY
from ..targets import ARM64, ARM64_RUNNERS, EMULATED_ARM, INSTALL, Target
from ..workers.launch import Worker
from . import own_wheel, sysroot
from .installing import Lock, install, virtual_environment
from .sysroot import Sysroot

QEMU = "qemu-aarch64"
DEBIAN = "Debian's packages"
CPUS = "cpus"
# Of the system only these are looked up in it: settings, devices and users are this machine's.
SYSTEM_FOLDERS = ("bin", "lib", "lib64", "sbin", "usr")
ORT = "onnxruntime"
# How many releases of onnxruntime are tried, from the newest one down; of 1.31.0 and 1.31.1 one.
MOST_TRIALS = 10
START = """\
#!/bin/sh
# Made by `edgepipe env create {name}`: {python} on the CPU that QEMU_CPU names.
export QEMU_CPU="${{QEMU_CPU:-{default}}}"
# What they name is of another interpreter, for another CPU.
unset PYTHONHOME PYTHONPATH
if [ ! -d "{views}/$QEMU_CPU" ]; then
  echo "no CPU $QEMU_CPU in this environment, it has {known}" >&2
  exit 127
fi
exec {qemu} -L "{views}/$QEMU_CPU" -0 "$0" "{python}" "$@"
"""
COMMAND = """\
#!/bin/sh
exec "{python}" -m edgepipe.pipeline.cli "$@"
"""
# Where RECORD says that pip has put a wheel's commands, which start the Python that pip runs on.
SCRIPTS = "../../bin/"
ABOUT = """
import os, sys
print(*sys.version_info[:2], *os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))
"""
# Each release of manylinux is named after the C library that it needs; aarch64 begins with 2.17.
OLDEST_GLIBC = 17


def missing(base: str) -> str:
    """Why it can't be used or made with the system ``base`` now, or an empty string."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed; {INSTALL[QEMU]}"
    if base != DEBIAN and not Path(base).is_dir():
        return f"its system ({base}) is gone"
    return ""


def system_of(named: Path | None) -> str:
    """What an environment is made with: the folder of a system, or Debian's packages.

    Raises ``RunnerOptionError`` for a folder that has none.
    """
    if named is None:
        return DEBIAN
    for character in '"$`\\':
        if character in str(named):
            raise RunnerOptionError(f"--sysroot {named}: can't have {character} in its name")
    return str(sysroot.named(named.resolve()).folder)


def make(
    folder: Path,
    scratch: Path,
    base: str,
    pip_base: str,
    locked: Mapping[str, Mapping[str, str]],
    say: Callable[[str], None],
) -> Lock:
    """Fill ``folder``; returns what of. ``pip_base`` is the interpreter that runs pip.

    The versions in ``locked`` are kept, but for the system's packages. Raises
    ``RunnerUnavailable``.
    """
    if reason := missing(base):
        raise RunnerUnavailable(f"{ARM64}: {reason}")
    if base == DEBIAN:
        system, packages = sysroot.download(folder / "root", scratch, say)
    else:
        system, packages = sysroot.named(Path(base)), {}
    python = _lay_out(folder, system)
    site_packages = folder / "lib" / system.python.name / "site-packages"
    options = _wheels_for(python, system)
    pip = virtual_environment(pip_base, scratch / "pip", scratch)
    wheels = {name: about for name, about in locked.items() if not _of_system(name)}
    found = _install(pip, python, options, site_packages, scratch, wheels, say)
    _drop_scripts(site_packages)
    if packages:
        sysroot.record(folder / "root", site_packages, packages)
    return dict(sorted({**packages, **found}.items()))


def failure(python: Path) -> str:
    """Load the probe in every runner on every CPU: the first reason why that fails, or nothing."""
    reasons = (_failure(python, target, ARM64_RUNNERS) for target in EMULATED_ARM)
    return next(filter(None, reasons), "")


def _failure(python: Path, target: Target, runners: Sequence[str]) -> str:
    name = "no worker"
    try:
        with Worker(target.argv(str(python))) as worker:
            for name in runners:
                worker.load(name, {"probe.onnx": probe.model()}, Settings(threads=1))
    except RunnerError as error:
        return f"{name} does not run in it on {target.name}: {error}"
    return ""


def _of_system(package: str) -> bool:
    return package.endswith(sysroot.OF_SYSTEM)


def _lay_out(folder: Path, system: Sysroot) -> Path:
    """The interpreter of an environment on a system, before anything is installed in it."""
    for name, cpu in arm.EMULATED.items():
        view = folder / CPUS / name
        view.mkdir(parents=True)
        for part in SYSTEM_FOLDERS:
            if (system.folder / part).is_dir():
                (view / part).symlink_to(system.folder / part)
        for file, text in cpu.described(_processors()).items():
            (view / file).parent.mkdir(parents=True, exist_ok=True)
            (view / file).write_text(text)
    lines = (
        f"home = {system.python.parent}",
        "include-system-site-packages = false",
        f"{EMULATOR_KEY} = {QEMU}",
    )
    (folder / "pyvenv.cfg").write_text("\n".join([*lines, ""]))
    python = folder / "bin" / "python"
    python.parent.mkdir()
    start = START.format(
        name=ARM64,
        python=system.python,
        default=EMULATED_ARM[-1].name,
        views=folder / CPUS,
        known=", ".join(arm.EMULATED),
        qemu=QEMU,
    )
    command = python.with_name("edgepipe")
    for path, text in ((python, start), (command, COMMAND.format(python=python))):
        path.write_text(text)
        path.chmod(0o755)
    return python


def _drop_scripts(site_packages: Path) -> None:
    """Take away the commands that came with wheels, and what their lists of files say of them."""
    shutil.rmtree(site_packages / "bin", ignore_errors=True)
    for record in site_packages.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not line.startswith(SCRIPTS)))


def _processors() -> int:
    """All that the kernel lists, also those that are off: each is looked up in the description.

    Where one isn't there pytorch/cpuinfo, inside onnxruntime, writes to a null pointer
    (pytorch/pytorch issue 188255).
    """
    return max(len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))), os.cpu_count() or 1)


def _wheels_for(python: Path, system: Sysroot) -> list[str]:
    """The options of pip for wheels of the system, which isn't the one that it runs on.

    Raises ``RunnerUnavailable`` if the interpreter does not even start.
    """
    done = subprocess.run([str(python), "-I", "-c", ABOUT], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RunnerUnavailable(f"{ARM64}: {system.python} does not run under {QEMU}: {last}")
    *_, minor = map(int, done.stdout.split())
    tags = [f"manylinux_2_{number}_aarch64" for number in range(minor, OLDEST_GLIBC - 1, -1)]
    platforms = [part for tag in (*tags, "manylinux2014_aarch64") for part in ("--platform", tag)]
    return ["--only-binary", ":all:", "--python-version", system.version, *platforms]


def _install(
    pip: Path,
    python: Path,
    options: Sequence[str],
    site_packages: Path,
    scratch: Path,
    locked: Mapping[str, Mapping[str, str]],
    say: Callable[[str], None],
) -> Lock:
    """Install edgepipe and the runtimes; of onnxruntime the newest release that works here."""
    problem = f"pip can't install {ARM64}"
    wheel = own_wheel.pack(scratch).as_uri()
    options = [*options, "--target", str(site_packages)]
    wanted = ORT
    say("arm64: installing edgepipe, openvino and onnxruntime")
    for _ in range(MOST_TRIALS):
        # Into an empty folder each time: pip leaves what was there where it installs for others.
        shutil.rmtree(site_packages, ignore_errors=True)
        site_packages.mkdir(parents=True)
        requirements = (f"edgepipe @ {wheel}", "openvino", wanted)
        lock = install(pip, requirements, scratch, problem, locked, options)
        if not (reason := _failure(python, EMULATED_ARM[0], ARM64_RUNNERS[:1])):
            return lock
        version = lock[ORT]["version"]
        say(f"arm64: {ORT} {version}: {reason}; trying the release before")
        wanted = f"{ORT}<{'.'.join(version.split('.')[:2])}"
        locked = {name: about for name, about in locked.items() if name != ORT}
    raise RunnerUnavailable(f"{ARM64}: none of {MOST_TRIALS} releases of {ORT} works under {QEMU}")
