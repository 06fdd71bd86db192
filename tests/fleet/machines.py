"""Twenty boxes on one machine: an sshd for each, on a port and with a folder of its own.

Some are of an older CPU, without VNNI: their Python is QEMU's, but for the receiver, which computes
nothing. A box can be switched off, which takes its sshd and every process that a login started.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgepipe.pipeline.shipping.delivery import Release

from ..pipeline.shipping.test_ssh import SERVER, SSHD, answers, free_port, soon

HOSTS = """
Host {name}
  Port {port}
"""
ALL_HOSTS = """
Host *
  HostName 127.0.0.1
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  IdentityAgent none
  StrictHostKeyChecking yes
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
"""
# -0 makes Python take the wrapper for itself, so that what it starts is emulated, too.
OLD_CPU = """#!/bin/bash
case "$*" in *shipping.receiver*) exec -a "$0" {python} "$@";; esac
exec qemu-x86_64 -cpu Haswell -0 "$0" {python} "$@"
"""


@dataclass
class Machine:
    """A box: its sshd, and the folder that it serves from."""

    name: str
    folder: Path
    port: int
    python: Path
    old_cpu: bool
    process: psutil.Popen | None = None

    @property
    def models(self) -> Path:
        return self.folder / "the models"

    @property
    def far(self) -> Path:
        return self.folder / "far"

    def switch_on(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "server")]
            self.process = psutil.Popen(command, stderr=log)
        assert soon(lambda: answers(self.port)), (self.folder / "log").read_text()

    def switch_off(self) -> None:
        """At once, with everything that runs there."""
        if self.process:
            for process in [*self.process.children(recursive=True), self.process]:
                _kill(process)
            self.process.wait()
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR", "").startswith(str(self.far)):
                    _kill(process)
            except psutil.Error:  # ended, a zombie, or another user's
                continue

    def served(self) -> str | None:
        """The file's name of what it serves; it has to be there, and whole."""
        link = self.models / "current"
        if not link.is_symlink():
            return None
        return Release.of(link.resolve(strict=True)).name

    def serve(self, bundle: Path) -> None:
        """As a deployment leaves it."""
        shutil.rmtree(self.models, ignore_errors=True)
        (self.models / "releases").mkdir(parents=True)
        name = Release.of(bundle).name
        shutil.copy(bundle, self.models / "releases" / name)
        (self.models / "current").symlink_to(Path("releases") / name)


@dataclass
class Machines:
    """All of them, and the fleet file that names them."""

    folder: Path
    boxes: list[Machine] = field(default_factory=list)

    def fleet(self, path: Path) -> Path:
        """Write the fleet file: old CPUs run fewer goldens, the others have a limit of the p99."""
        options = ["-F", str(self.folder / "client")]
        tables = [f"[defaults]\noptions = {json.dumps(options)}\nrunner = 'ort-cpu'\n"]
        for box in self.boxes:
            said: dict[str, Any] = {"name": box.name, "ssh": box.name, "python": str(box.python)}
            said |= {"folder": str(box.models)}
            said |= {"samples": 16} if box.old_cpu else {"max-p99": 10_000}
            tables.append(
                "[[box]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in said.items())
            )
        path.write_text("\n".join(tables))
        return path

    def served(self) -> dict[str, str | None]:
        return {box.name: box.served() for box in self.boxes}


@contextmanager
def machines(folder: Path, python: Path, count: int, old: tuple[int, ...]) -> Iterator[Machines]:
    """So many boxes, switched on; those numbered ``old`` are of an older CPU."""
    for name in ("host", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    if os.geteuid() == 0:  # sshd's own folder, which its service would make
        Path("/run/sshd").mkdir(exist_ok=True)
    found, host = Machines(folder), (folder / "host.pub").read_text()
    clients, known = [], []
    emulated = old_python(folder / "old", python)
    for number in range(count):
        place, port = folder / f"box-{number:02}", free_port()
        (place / "far").mkdir(parents=True)
        shutil.copy(folder / "host", place / "host")
        shutil.copy(folder / "key.pub", place / "authorized")
        (place / "server").write_text(SERVER.format(port=port, folder=place))
        which = emulated if number in old else python
        found.boxes.append(Machine(place.name, place, port, which, number in old))
        clients.append(HOSTS.format(name=place.name, port=port))
        known.append(f"[127.0.0.1]:{port} {host}")
    (folder / "known").write_text("".join(known))
    clients.append(ALL_HOSTS.format(folder=folder, user=getpass.getuser()))
    (folder / "client").write_text("".join(clients))
    try:
        for box in found.boxes:
            box.switch_on()
        yield found
    finally:
        for box in found.boxes:
            box.switch_off()


def old_python(folder: Path, python: Path) -> Path:
    """An environment with the same packages whose Python computes as a CPU without VNNI."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(python.parents[1] / "pyvenv.cfg", folder)
    (folder / "lib").symlink_to(python.parents[1] / "lib")
    script = folder / "bin" / "python"
    script.write_text(OLD_CPU.format(python=python))
    script.chmod(0o755)
    return script


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
