"""The environment for ARM64 CPUs: what is missing for it is said, and nothing is left half made.

The real apt, in corners: without sources, without a network. `nox -s arm64` makes the environment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.runners.environments import sysroot
from edgepipe.runners.machine import arm
from edgepipe.runners.targets import EMULATED_ARM

Run = Callable[..., CompletedProcess[str]]
CREATE = ("env", "create", "arm64")
needs_apt = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-aarch64", "apt-get", "dpkg-deb"))),
    reason="needs apt-get, dpkg-deb and qemu-aarch64 (Debian: qemu-user)",
)


def left(folder: Path) -> list[str]:
    """What is in the user's cache but for locks."""
    envs = folder / "cache" / "edgepipe" / "envs"
    return [path.name for path in envs.glob("*") if path.suffix != ".lock"]


def tools(folder: Path, *names: str) -> dict[str, str]:
    """An environment whose PATH has these programs alone."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return {"PATH": str(folder)}


def refused(done: CompletedProcess[str], folder: Path) -> str:
    """The one line of a build that could not be: exit code 5, and nothing of it is left."""
    assert done.returncode == 5, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert left(folder) == []
    return done.stderr.splitlines()[-1]


def test_without_an_emulator_it_says_what_to_install(edgepipe: Run, tmp_path: Path) -> None:
    done = edgepipe(*CREATE, env=tools(tmp_path / "bin"))
    assert "apt-get install qemu-user" in refused(done, tmp_path)


@needs_apt
def test_without_apt_it_asks_for_a_system(edgepipe: Run, tmp_path: Path) -> None:
    done = edgepipe(*CREATE, env=tools(tmp_path / "bin", "qemu-aarch64"))
    said = refused(done, tmp_path)
    assert "apt-get is not installed" in said
    assert "--sysroot" in said


@needs_apt
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ('Dir::Etc::sourceparts "/dev/null"; Dir::Etc::sourcelist "/dev/null";', "no packages for"),
        ('Acquire::http::Proxy "http://127.0.0.1:9"; Acquire::Retries "0";', "check the network"),
    ],
    ids=["sources", "network"],
)
def test_without_packages_there_is_a_reason_and_a_remedy(
    settings: str, says: str, edgepipe: Run, tmp_path: Path
) -> None:
    (tmp_path / "apt.conf").write_text(settings)
    said = refused(edgepipe(*CREATE, env={"APT_CONFIG": str(tmp_path / "apt.conf")}), tmp_path)
    assert says in said
    assert "--sysroot" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("arm64", "--sysroot", "gone"), "is no folder"),
        (("arm64", "--sysroot", "empty"), "has none of python3.11, python3.12, python3.13"),
        (("arm64", "--sysroot", "x86"), "is no program for ARM64"),
        (("arm64", "--python", "python3"), "see --sysroot"),
        (("ort-openvino", "--sysroot", "empty"), "is for arm64 alone"),
    ],
    ids=["gone", "empty", "x86", "python", "another"],
)
def test_what_makes_no_sense_is_a_usage_error(
    flags: tuple[str, ...], says: str, edgepipe: Run, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    program = tmp_path / "x86" / "usr" / "bin" / "python3.11"
    program.parent.mkdir(parents=True)
    shutil.copy(shutil.which("true") or os.devnull, program)
    done = edgepipe("env", "create", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
    assert left(tmp_path) == []


def test_a_target_without_its_environment_says_what_makes_it(
    workspace: Path, edgepipe: Run
) -> None:
    flags = ("--target", "cortex-a76", "--workspace", workspace)
    done = edgepipe("parity", *flags, "--variant", "fp32")
    assert done.returncode == 5, done.stderr
    assert done.stdout.count("edgepipe env create arm64") == 2, "ort-cpu and openvino"
    named = edgepipe("parity", *flags, "--variant", "fp32", "--runner", "torch")
    assert named.returncode == 5
    assert "cortex-a76 has ort-cpu and openvino" in named.stdout


def test_timings_of_an_emulated_cpu_are_refused(exported: Path, edgepipe: Run) -> None:
    done = edgepipe("bench", "--target", "cortex-a53", "--workspace", exported)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cortex-a53 is emulated" in done.stderr


def test_every_target_has_a_description_of_its_cpu() -> None:
    assert [target.name for target in EMULATED_ARM] == list(arm.EMULATED)
    for name, cpu in arm.EMULATED.items():
        files = cpu.described(2)
        cpuinfo = files.pop("proc/cpuinfo")
        assert arm.name(cpuinfo).lower() == f"arm {name}"
        assert cpuinfo.count("processor\t:") == 2
        assert ("asimddp" in cpuinfo.split()) == (name == "cortex-a76")
        assert {int(text, 16) for text in files.values()} == {cpu.midr}


def test_the_architectures_of_this_machines_apt_are_left_alone() -> None:
    """All that apt keeps, and its architecture, are in the folder that it is given."""
    text = sysroot.CONFIGURATION.format(state="/s", user="root")
    assert text.count('"/s') == 5
    assert "#clear APT::Architectures;" in text
