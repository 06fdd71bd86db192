"""An ARM64 system's files: a Python with the libraries that it needs, to be run by an emulator.

From Debian's packages, by way of this machine's apt, or a folder that holds such a system already
(the card of a Raspberry Pi, an exported container). apt is asked in a state of its own: neither
its lists nor the architectures of the machine's dpkg are changed, and it needs no root.
"""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base import RunnerOptionError, RunnerUnavailable
from ..machine.files import sha256_file
from . import own_wheel
from .installing import Lock, run

# What the runtimes need beside what the interpreter itself depends on.
PACKAGES = ("python3", "libstdc++6")
VERSIONS = ("3.13", "3.12", "3.11")
LIBRARIES = ("libc.so.6", "libstdc++.so.6")
LIBRARY_PLACES = ("*/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu")
ELF_AARCH64 = 183  # e_machine of AArch64 (ELF for the Arm 64-bit Architecture)
RECORDED = "arm64_sysroot"
OF_SYSTEM = ":arm64"  # how names of Debian's packages end in a lock
UNPACK = 'for archive; do dpkg-deb --extract "$archive" "$0" || exit; done'
ELSEWHERE = "or name a folder that holds an ARM64 system with --sysroot"
# Read after the machine's own configuration, whose sources, keys and proxies go on counting.
CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "{user}";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}";
Dir::Cache::archives "{state}/archives";
"""


@dataclass(frozen=True)
class Sysroot:
    """``folder`` is the root of an ARM64 system that has the interpreter ``python``."""

    folder: Path
    python: Path

    @property
    def version(self) -> str:
        """Of the interpreter: "3.11"."""
        return self.python.name.removeprefix("python")


def named(folder: Path) -> Sysroot:
    """The system in a folder that the user names.

    Raises ``RunnerOptionError`` if it is none, or lacks a Python that edgepipe runs on.
    """
    if not folder.is_dir():
        raise RunnerOptionError(f"--sysroot {folder}: is no folder")
    found = [folder / "usr" / "bin" / f"python{version}" for version in VERSIONS]
    python = next((path for path in found if path.is_file()), None)
    if python is None:
        names = ", ".join(path.name for path in reversed(found))
        raise RunnerOptionError(f"--sysroot {folder}: has none of {names} in usr/bin")
    if not _is_aarch64(python):
        raise RunnerOptionError(f"--sysroot {folder}: {python.name} is no program for ARM64")
    for library in LIBRARIES:
        places = (place for where in LIBRARY_PLACES for place in folder.glob(f"{where}/{library}"))
        if not any(place.exists() for place in places):
            raise RunnerOptionError(f"--sysroot {folder}: has no {library} for ARM64")
    return Sysroot(folder, python)


def download(folder: Path, scratch: Path, say: Callable[[str], None]) -> tuple[Sysroot, Lock]:
    """Unpack Debian's packages into ``folder``; returns the system and what it was made of.

    Raises ``RunnerUnavailable``: no apt here, none of its sources has arm64, or no network.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RunnerUnavailable(
                f"{tool} is not installed, and Debian's packages are what it is made of: "
                f"do it on Debian or Ubuntu, {ELSEWHERE}"
            )
    say("arm64: fetching Debian's packages")
    archives = _fetch(scratch)
    folder.mkdir()
    lock: Lock = {}
    command = ["sh", "-c", UNPACK, str(folder), *map(str, archives)]
    run(command, scratch, "dpkg-deb can't unpack Debian's packages")
    for archive in archives:
        name, version, _ = archive.stem.split("_")
        about = {"version": version.replace("%3a", ":"), "sha256": sha256_file(archive)}
        lock[f"{name}{OF_SYSTEM}"] = about
    return named(folder), lock


def _fetch(scratch: Path) -> list[Path]:
    state = scratch / "apt"
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    # apt gives up root's rights for another user's, who may not enter a folder of ours.
    configuration = CONFIGURATION.format(state=state, user=_user())
    (state / "apt.conf").write_text(configuration)
    apt = ["apt-get", "-c", str(state / "apt.conf"), "-q", "-y"]
    english = {"LC_ALL": "C"}
    said = run([*apt, "update"], scratch, "apt-get update fails", english)
    try:
        wanted = ["--no-install-recommends", "--download-only", "install", *PACKAGES]
        run([*apt, *wanted], scratch, "apt-get can't download Debian's packages", english)
    except RunnerUnavailable as error:
        raise RunnerUnavailable(_why_not(said) or str(error)) from error
    return sorted((state / "archives").glob("*.deb"))


def _why_not(update: str) -> str:
    """What ``apt-get update`` said that explains why there are no packages."""
    failed = [line for line in update.splitlines() if "Failed to fetch" in line]
    absent = [line for line in failed if "404" in line]
    if failed and len(absent) < len(failed):
        line = next(line for line in failed if line not in absent)
        said = line.removeprefix("W: ").removeprefix("E: ")
        return f"apt: {said}; check the network, {ELSEWHERE}"
    if absent or "doesn't support architecture 'arm64'" in update or "arm64" not in update:
        return (
            "apt's sources have no packages for arm64: add some that do (Ubuntu: "
            f"http://ports.ubuntu.com/ubuntu-ports, as `deb [arch=arm64] …`), {ELSEWHERE}"
        )
    return ""


def _user() -> str:
    return getpass.getuser() if os.geteuid() else "root"


def record(folder: Path, site_packages: Path, packages: Mapping[str, Mapping[str, str]]) -> None:
    """List the system's files as pip lists a wheel's, so that what looks for damage finds it."""
    version = packages[f"python3{OF_SYSTEM}"]["version"]
    about = site_packages / f"{RECORDED}-{version}.dist-info"
    about.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {RECORDED}\nVersion: {version}\n"
    (about / "METADATA").write_text(metadata)
    # One after the other: together they are hundreds of MiB.
    files = (
        (os.path.relpath(path, site_packages), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    )
    (about / "RECORD").write_bytes(own_wheel.record(files, f"{about.name}/RECORD"))


def _is_aarch64(program: Path) -> bool:
    """Whether a file is an ELF program for AArch64, little endian."""
    with program.open("rb") as file:
        head = file.read(20)
    return head[:6] == b"\x7fELF\x02\x01" and int.from_bytes(head[18:20], "little") == ELF_AARCH64
