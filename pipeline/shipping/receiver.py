"""The far end of a deployment: ``python -P -m edgepipe.pipeline.shipping.receiver``, on the box.

It holds the folder that an application serves from:

    releases/NAME-DIGEST.tar.gz     bundles
    current  -> releases/…          what is served
    previous -> releases/…          what was served before
    .older   -> releases/…          what `previous` was, until a deployment has held or not

and answers requests as a worker does (see ``runners.protocol``). Each one leaves the folder whole,
wherever it is killed: files appear under their names only when they are on the disk, and links
are replaced by renaming. What ``switch`` puts in front has been verified in this very process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...runners import documents
from ...runners.base import BundleError, SessionError
from ...runners.bundles.bundle import read_index
from ...runners.bundles.index import SUFFIX, older
from ...runners.machine.files import sha256_file, sync_folder
from ...runners.machine.locks import hold
from ...runners.workers import protocol
from ...runners.workers.worker import Operation, hello
from ...runners.workers.worker import main as serve

CURRENT, PREVIOUS, OLDER = "current", "previous", ".older"
RELEASES, LOCK = "releases", ".lock"
PART = ".part"
WATCH_SECONDS = 0.5
BUSY = "another deployment to"
CLI = f"{(__package__ or '').rpartition('.')[0]}.cli"


class Receiver:
    """Answers one deployment. The folder is locked from ``open`` until this process ends."""

    def __init__(self) -> None:
        self._folder = Path()
        self._verified: set[str] = set()
        self._lock: int | None = None

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
        self._folder = Path(message["folder"]).expanduser().absolute()
        return self._state(), {}

    def open(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{folder} -> the same, with the folder made and locked.

        Completes a way back that an earlier deployment was cut off in.
        """
        self._folder = Path(message["folder"]).expanduser().absolute()
        self._releases.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = hold(self._folder / LOCK)
        except BlockingIOError as error:
            raise SessionError(f"{BUSY} {self._folder} is running") from error
        if self._target(CURRENT) == self._target(PREVIOUS):
            self._forget_failed()
        return self._state(), {}

    def put(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """{name, sha256, size} + a piece of the archive -> {here, have}.

        Pieces come in order, each behind what the box has of it (``have``), so that a transfer
        goes on where an earlier one was cut. ``here``: all of it is there, as it was sent.
        """
        path = self._release(message["name"])
        if path.is_file() and sha256_file(path) == message["sha256"]:
            return {"here": True, "have": message["size"]}, {}
        part = path.with_name(f".{path.name}-{message['sha256'][:16]}{PART}")
        for piece in blobs.values():
            if not isinstance(piece, Path):
                raise SessionError(f"{path.name}: an array is no piece of an archive")
            with part.open("ab") as file, piece.open("rb") as sent:
                shutil.copyfileobj(sent, file, protocol.CHUNK_BYTES)
        have = part.stat().st_size if part.exists() else 0
        if have < message["size"]:
            return {"here": False, "have": have}, {}
        if sha256_file(part) != message["sha256"]:
            part.unlink()
            raise SessionError(f"{path.name} did not arrive as it was sent; deploy it again")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(self._releases)
        return {"here": True, "have": have}, {}

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
        document = documents.parse(done.stdout) if done.stdout else None
        if done.returncode == 0:
            self._verified.add(path.resolve().name)
        return {"code": done.returncode, "document": document, "error": done.stderr.strip()}, {}

    def switch(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{name, downgrade} -> the state after it: serve a verified release, or the previous one.

        Going back needs no new verification: it was verified when it was put in front, and a box
        that serves nothing is worse off. Then all is as it was before, with its own way back.
        """
        if message["name"] == PREVIOUS:
            self._point(CURRENT, self._target(PREVIOUS))
            self._forget_failed()
            return self._state(), {}
        path = self._release(message["name"])
        if path.name not in self._verified:
            raise SessionError(f"{path.name} was not verified")
        if not message["downgrade"] and (reason := self._older(path)):
            raise SessionError(f"{reason}; --allow-downgrade serves it all the same")
        before = self._target(CURRENT)
        if before and before != path.name:
            self._point(OLDER, self._target(PREVIOUS))
            self._point(PREVIOUS, before)
        self._point(CURRENT, path.name)
        return self._state(), {}

    def restart(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """{unit, seconds} -> {code, error}: restart a systemd service and see that it stays up.

        It is watched for so many seconds: one that dies right after its start was up, too.
        """
        systemctl = shutil.which("systemctl")
        if systemctl is None:
            return {"code": 1, "error": "the box has no systemctl"}, {}

        def ask(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [systemctl, *command, "--", message["unit"]],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )

        done = ask("restart")
        restarts = ask("show", "--property=NRestarts", "--value").stdout
        until = time.monotonic() + message["seconds"]
        while not done.returncode:
            done = ask("is-active")
            if ask("show", "--property=NRestarts", "--value").stdout != restarts:
                return {"code": 1, "error": "it ended, and systemd started it again"}, {}
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(WATCH_SECONDS, left))
        error = (done.stderr or done.stdout).strip() if done.returncode else ""
        return {"code": done.returncode, "error": error}, {}

    def tidy(self, _message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """Remove what neither link points to, parts of killed transfers included."""
        self._point(OLDER, None)
        kept = {self._target(CURRENT), self._target(PREVIOUS)}
        removed = [path for path in self._releases.iterdir() if path.name not in kept]
        for path in removed:
            path.unlink()
        return {"removed": sorted(path.name for path in removed)}, {}

    def _older(self, path: Path) -> str | None:
        """How a release is older than the one that is served, if both can be read."""
        served = self._target(CURRENT)
        if served is None or served == path.name:
            return None
        try:
            return older(read_index(path), read_index(self._releases / served))
        except BundleError:  # what is served is damaged: any release is better
            return None

    def _forget_failed(self) -> None:
        """Once the previous release is in front again, what was its way back is that again."""
        self._point(PREVIOUS, self._target(OLDER))
        self._point(OLDER, None)

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
        sync_folder(self._folder)

    def _state(self) -> dict[str, Any]:
        served = self._target(CURRENT)
        try:
            index = read_index(self._releases / served) if served else None
        except BundleError:
            index = None
        return {
            "folder": str(self._folder),
            "name": index.name if index else None,
            "release": index.release if index else None,
            "created": index.created if index else None,
            "current": self._target(CURRENT),
            "previous": self._target(PREVIOUS),
        }


if __name__ == "__main__":
    serve(Receiver().operations())
