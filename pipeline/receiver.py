"""The far end of a deployment: ``python -P -m edgepipe.pipeline.receiver``, on the box.

It holds the folder that an application serves from:

    releases/NAME-DIGEST.tar.gz     bundles
    current  -> releases/…          what is served
    previous -> releases/…          what was served before

and answers requests as a worker does (see ``runners.protocol``). Each one leaves the folder whole,
wherever it is killed: files appear under their names only when they are on the disk, and links
are replaced by renaming. What ``switch`` puts in front has been verified in this very process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock

from ..runners import protocol
from ..runners.base import SessionError
from ..runners.bundle import SUFFIX
from ..runners.worker import Operation, hello
from ..runners.worker import main as serve
from .files import write_synced

CURRENT, PREVIOUS, RELEASES, LOCK = "current", "previous", "releases", ".lock"
PART = ".part"
CLI = f"{__package__}.cli"


class Receiver:
    """Answers one deployment. The folder is locked from ``open`` until this process ends."""

    def __init__(self) -> None:
        self._folder = Path()
        self._verified: set[str] = set()
        self._lock: filelock.FileLock | None = None

    def operations(self) -> dict[str, Operation]:
        """What it answers, by the name of the request."""
        return {
            "hello": hello,
            "look": self.look,
            "open": self.open,
            "put": self.put,
            "verify": self.verify,
            "switch": self.switch,
            "restart": self.restart,
            "tidy": self.tidy,
        }

    def look(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{folder} -> what is served there, and what was. Changes nothing."""
        self._folder = Path(message["folder"]).expanduser()
        return self._state(), {}

    def open(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{folder} -> the same, with the folder made and locked."""
        self._folder = Path(message["folder"]).expanduser()
        self._releases.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self._folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise SessionError(f"another deployment to {self._folder} is running") from error
        return self._state(), {}

    def put(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """{name, sha256} + archive -> {}. Without the archive: {here}, whether it is there."""
        path = self._release(message["name"])
        if not blobs:
            return {"here": path.is_file() and _sha256(path.read_bytes()) == message["sha256"]}, {}
        (sent,) = blobs.values()
        if not isinstance(sent, Path) or _sha256(data := sent.read_bytes()) != message["sha256"]:
            raise SessionError(f"{path.name} did not arrive as it was sent")
        part = path.with_name(f".{path.name}{PART}")
        write_synced(part, data)
        part.replace(path)
        _sync(self._releases)
        return {}, {}

    def verify(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{name, arguments} -> {code, document, error}: `edgepipe verify` of a release, or of
        what a link points to, with the configuration in the folder.
        """
        path = self._folder / message["name"]
        if message["name"] not in (CURRENT, PREVIOUS):
            path = self._release(message["name"])
        command = [sys.executable, "-P", "-m", CLI, "verify", str(path), "--json", "--quiet"]
        done = subprocess.run(
            [*command, *message["arguments"]],
            cwd=self._folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        document = json.loads(done.stdout) if done.stdout else None
        if done.returncode == 0:
            self._verified.add(path.resolve().name)
        return {"code": done.returncode, "document": document, "error": done.stderr.strip()}, {}

    def switch(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{name} -> the state after it: serve a verified release, or go back to the previous.

        Going back needs no new verification: it was verified when it was put in front, and a box
        that serves nothing is worse off.
        """
        if message["name"] == PREVIOUS:
            self._point(CURRENT, self._target(PREVIOUS))
            return self._state(), {}
        path = self._release(message["name"])
        if path.name not in self._verified:
            raise SessionError(f"{path.name} was not verified")
        before = self._target(CURRENT)
        if before and before != path.name:
            self._point(PREVIOUS, before)
        self._point(CURRENT, path.name)
        return self._state(), {}

    def restart(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{unit} -> {code, error}: restart a systemd service and see whether it stays up."""
        systemctl = shutil.which("systemctl")
        if systemctl is None:
            return {"code": 1, "error": "the box has no systemctl"}, {}
        for command in ("restart", "is-active"):
            done = subprocess.run(
                [systemctl, command, "--", message["unit"]],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            if done.returncode:
                return {"code": done.returncode, "error": (done.stderr or done.stdout).strip()}, {}
        return {"code": 0, "error": ""}, {}

    def tidy(self, _message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """Remove what neither link points to, parts of killed transfers included."""
        kept = {self._target(CURRENT), self._target(PREVIOUS)}
        removed = [path for path in self._releases.iterdir() if path.name not in kept]
        for path in removed:
            path.unlink()
        return {"removed": sorted(path.name for path in removed)}, {}

    @property
    def _releases(self) -> Path:
        return self._folder / RELEASES

    def _release(self, name: str) -> Path:
        if Path(name).name != name or name.startswith(".") or not name.endswith(SUFFIX):
            raise SessionError(f"{name!r} is no name for a bundle")
        return self._releases / name

    def _target(self, link: str) -> str | None:
        try:
            return Path(os.readlink(self._folder / link)).name
        except OSError:
            return None

    def _point(self, link: str, name: str | None) -> None:
        """Let a link point to a release, at once; to nothing: remove it."""
        path = self._folder / link
        if name is None:
            path.unlink(missing_ok=True)
        else:
            temporary = self._folder / f".{link}{PART}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path(RELEASES) / name)
            temporary.replace(path)
        _sync(self._folder)

    def _state(self) -> dict[str, Any]:
        return {
            "folder": str(self._folder),
            "current": self._target(CURRENT),
            "previous": self._target(PREVIOUS),
        }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    serve(Receiver().operations())
