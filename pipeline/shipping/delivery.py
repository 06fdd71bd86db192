"""The near end of a deployment: one box, asked for one step after the other.

All work is done by ``receiver``, a process on the box. A connection that breaks leaves the box with
the last step that was completed, and every step leaves it serving a verified bundle: the old one
until ``switch``, from then on the new one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ...runners.bundles.bundle import unpacked
from ...runners.bundles.index import Index, older
from ...runners.machine.files import sha256_file
from ...runners.targets import Target
from ...runners.workers.launch import Timeouts, Worker
from ..errors import EXIT_CODES, ExitCode, UsageError
from ..progress import Progress
from ..settings.shipping import DeployConfig, VerifyConfig
from .deploy_result import DEPLOYED, REFUSED, ROLLED_BACK, UNCHANGED, WOULD_DEPLOY, Deployment
from .receiver import CURRENT, PREVIOUS

MODULE = f"{__package__}.receiver"
TIMEOUTS = Timeouts(start=60.0, run=600.0)
# One piece has ``TIMEOUTS.run`` to arrive, which is 28 kB/s at the least.
PIECE_BYTES = 16 << 20
# What a slow box does in a second of unpacking, hashing and reading a model.
SLOW_BYTES = 1 << 20
FINE = ("pass", "waived", "not checked")
PREFIX = "edgepipe: "  # of its own errors
Verified = Mapping[str, Any]


@dataclass(frozen=True)
class Release:
    """A bundle that is whole. ``name`` is what it is called on a box, ``size`` is in bytes."""

    path: Path
    name: str
    size: int
    sha256: str
    index: Index

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a bundle. Raises ``BundleError`` for one that is not whole."""
        with unpacked(path) as bundle:
            size, index = path.stat().st_size, bundle.index
            return cls(path, bundle.file_name, size, sha256_file(path), index)


class Line(Worker):
    """The connection to a box."""

    def interrupt(self) -> None:
        """End it from another thread: whoever waits there for an answer gets ``WorkerCrashed``."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)


def line_to(target: Target) -> Line:
    """A connection to the receiver of a box, not opened yet."""
    return Line(target.argv(sys.executable, MODULE), TIMEOUTS)


@contextmanager
def connected(
    target: Target,
    section: DeployConfig,
    checks: VerifyConfig,
    progress: Progress,
    dial: Callable[[Target], Line] = line_to,
) -> Iterator[Delivery]:
    """A connection to a box, which ends on leaving; ``dial`` makes another one than usual.

    Raises ``UsageError`` for a target that computes as another CPU, and ``RunnerError`` if the
    box can't be reached.
    """
    refuse_estimate(target)
    with dial(target) as line:
        yield Delivery(line, target, section, checks, progress)


def refuse_estimate(target: Target) -> None:
    """Raise ``UsageError`` for a target that computes as another CPU: it is no box."""
    if target.isa is not None:
        raise UsageError(f"target {target.name} computes as another CPU: nothing is served there")


class Delivery:
    """A box that answers. Every step raises ``RunnerError`` if the connection breaks."""

    def __init__(
        self,
        line: Line,
        target: Target,
        section: DeployConfig,
        checks: VerifyConfig,
        progress: Progress,
    ) -> None:
        self._line, self._target = line, target
        self._section, self._checks, self._progress = section, checks, progress

    def look(self) -> Mapping[str, Any]:
        """What is served there, and what was: see ``Receiver.look``. Changes nothing."""
        return self._ask("look", {"folder": self._section.folder})

    def foresee(self, release: Release) -> Deployment:
        """What ``bring`` would do."""
        state = self.look()
        sent = 0 if state["current"] == release.name else release.size
        return self._result(WOULD_DEPLOY, release, state, state["current"], sent)

    def bring(
        self, release: Release, opened: Callable[[str | None], None] = lambda _before: None
    ) -> Deployment:
        """Send a bundle, verify it there, and let it be served if it holds.

        ``opened`` is told what is served there, before anything changes.
        """
        state = self._ask("open", {"folder": self._section.folder})
        before = state["current"]
        opened(before)
        if before not in (None, release.name) and (reason := self._older(release, state)):
            verified = _found(ExitCode.INTEGRITY, reason)
            return self._result(REFUSED, release, state, before, 0, verified)
        sent = self._send(release)
        self._progress.say(f"verifying {release.name} on {self._target.name}")
        verified = self._verify(release.name, release.size)
        if verified["code"]:
            removed = self._ask("tidy", {})["removed"]
            done = self._result(REFUSED, release, state, before, sent, verified)
            return replace(done, removed=tuple(removed))
        switch = {"name": release.name, "downgrade": self._section.allow_downgrade}
        state = self._ask("switch", switch)
        self._progress.say(f"{release.name} is in front on {self._target.name}")
        failed = self._settle(release.size, restart=before != release.name)
        if failed and before != release.name:  # without an earlier one: nothing is served
            state = self._ask("switch", {"name": PREVIOUS})
            if (again := self._restart()) and before:
                failed = {**failed, "reason": f"{_reason(failed)}; {before} is back, but {again}"}
            return self._result(ROLLED_BACK, release, state, before, sent, failed)
        removed = self._ask("tidy", {})["removed"]
        outcome = UNCHANGED if before == release.name else DEPLOYED
        done = self._result(outcome, release, state, before, sent, failed or verified)
        return replace(done, removed=tuple(removed))

    def hold(self, release: Release) -> Deployment:
        """Verify what is served there once more, in its place: "unchanged", and whether it holds.

        Something else than the release in front is "refused".
        """
        state = self._ask("open", {"folder": self._section.folder})
        before = state["current"]
        if before != release.name:
            verified = _found(ExitCode.GATE_FAILED, f"it serves {before or 'nothing'}")
            return self._result(REFUSED, release, state, before, 0, verified)
        verified = self._verify(CURRENT, release.size)
        return self._result(UNCHANGED, release, state, before, 0, verified)

    def go_back(self, release: Release) -> Deployment:
        """Let the box serve again what it served before a release, and verify that in its place.

        One that does not serve the release is "unchanged", so that it can be asked for twice. What
        is in front then stays there whatever is found of it: nothing else is known to be better.
        """
        before = self._ask("open", {"folder": self._section.folder})["current"]
        if before != release.name:
            state, outcome, error = self.look(), UNCHANGED, None
        else:
            state, outcome = self._ask("switch", {"name": PREVIOUS}), ROLLED_BACK
            error = self._restart()
        if state["current"] is None:
            return self._result(outcome, release, state, before, 0)
        found = self._verify(CURRENT, release.size)
        if error and not found["code"]:
            found = {**found, "code": int(ExitCode.RUNNER), "reason": error}
        return self._result(outcome, release, state, before, 0, found)

    def _older(self, release: Release, state: Mapping[str, Any]) -> str | None:
        """Why a bundle is not to take the place of the one that is served: it is an older one."""
        if self._section.allow_downgrade or state["name"] is None:
            return None
        served = {name: state[name] for name in ("name", "release", "created")}
        found = older(release.index, replace(release.index, **served))
        return f"{found}; --allow-downgrade serves it all the same" if found else None

    def _send(self, release: Release) -> int:
        """Send of the archive what the box does not have yet; returns the bytes that were sent."""
        about = {"name": release.name, "sha256": release.sha256, "size": release.size}
        state = self._ask("put", about)
        sent = 0
        with release.path.open("rb") as file:
            while not state["here"]:
                self._progress.step(
                    state["have"], release.size, f"sending {release.size >> 20} MiB"
                )
                file.seek(state["have"])
                piece = file.read(PIECE_BYTES)
                state = self._ask("put", about, {"piece": piece})
                sent += len(piece)
        self._progress.step(1, 1, "")
        return sent

    def _verify(self, name: str, size: int) -> Verified:
        seconds = TIMEOUTS.run + size / SLOW_BYTES
        return self._ask("verify", {"name": name, "arguments": self._arguments()}, seconds=seconds)

    def _settle(self, size: int, restart: bool) -> Verified | None:
        """Verify what is in front and restart the service: what failed, if it did."""
        found = self._verify(CURRENT, size)
        if found["code"]:
            return found
        if restart and (error := self._restart()):
            return {**found, "code": int(ExitCode.RUNNER), "reason": error}
        return None

    def _restart(self) -> str | None:
        """Restart the service, if there is one, and watch it: why it is not up, if it is not."""
        unit, seconds = self._section.restart, self._section.settle
        if not unit:
            return None
        about = {"unit": unit, "seconds": seconds}
        done = self._ask("restart", about, seconds=TIMEOUTS.run + seconds)
        return f"{unit} did not come up: {done['error']}" if done["code"] else None

    def _arguments(self) -> list[str]:
        """The flags of `edgepipe verify` there: these checks, whatever its configuration says."""
        flags: list[str] = []
        for flag, value in (
            ("--key", self._section.key),
            ("--runner", self._checks.runner),
            ("--variant", self._checks.variant),
            ("--samples", self._checks.samples),
            ("--max-p99", self._checks.max_p99),
        ):
            if value is not None:
                flags += [flag, str(value)]
        return flags

    def _ask(
        self,
        operation: str,
        fields: Mapping[str, Any],
        blobs: Mapping[str, Any] | None = None,
        seconds: float = TIMEOUTS.run,
    ) -> dict[str, Any]:
        reply, _ = self._line.request(operation, fields, blobs or {}, seconds)
        return reply

    def _result(
        self,
        outcome: str,
        release: Release,
        state: Mapping[str, Any],
        before: str | None,
        sent: int,
        verified: Verified | None = None,
    ) -> Deployment:
        code = verified["code"] if verified else 0
        known = {int(one) for _, one in EXIT_CODES} | {0, int(ExitCode.INCONCLUSIVE)}
        return Deployment(
            target=self._target.name,
            folder=state["folder"],
            bundle=release.name,
            outcome=outcome,
            before=before,
            current=state["current"],
            previous=state["previous"],
            bytes_sent=sent,
            removed=(),
            reason=_reason(verified) if verified and code else None,
            verification=verified["document"] if verified else None,
            exit_code=ExitCode(code) if code in known else ExitCode.RUNNER,
        )


def _found(code: ExitCode, reason: str) -> Verified:
    """What was found without asking `edgepipe verify`."""
    return {"code": int(code), "document": None, "error": "", "reason": reason}


def _reason(verified: Verified) -> str:
    """The one line that says why it did not hold.

    Whatever libraries print stands among the errors, so that the checks come first.
    """
    checks = (verified["document"] or {}).get("checks", ())
    bad = [f"{one['name']}: {one['text']}" for one in checks if one["verdict"] not in FINE]
    if "reason" in verified or bad:
        return verified.get("reason") or "; ".join(bad)
    lines = verified["error"].splitlines()
    own = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)]
    return (own or lines or [f"verify ended with exit code {verified['code']}"])[-1]
