"""deploy: a bundle onto a box, verified there before it is served, with a way back.

All work is done by ``receiver``, a process on the box; this side asks for one step after the
other. A connection that breaks leaves the box with the last step that was completed, and every
step leaves it serving a verified bundle: the old one until ``switch``, from then on the new one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..runners.bundle import SUFFIX, unpacked
from ..runners.launch import Timeouts, Worker
from ..runners.targets import Target
from .config import Config
from .errors import EXIT_CODES, ExitCode
from .progress import Progress
from .receiver import CURRENT, PREVIOUS

SCHEMA_VERSION = 1
MODULE = f"{__package__}.receiver"
TIMEOUTS = Timeouts(start=60.0, load=1800.0, run=600.0)
DEPLOYED, UNCHANGED, REFUSED, ROLLED_BACK = "deployed", "unchanged", "refused", "rolled back"
WOULD_DEPLOY = "would deploy"


@dataclass(frozen=True)
class Deployment:
    """What became of it.

    ``outcome``: "deployed", "unchanged" (it was served already, and holds), "refused" (it did not
    verify there, nothing changed), "rolled back" (it did not hold once it was in front) or "would
    deploy" (a dry run). ``before`` and ``current`` are the names of what was and is served.
    ``verification`` is the document of `edgepipe verify` on the box.
    """

    target: str
    folder: str
    bundle: str
    outcome: str
    before: str | None
    current: str | None
    previous: str | None
    bytes_sent: int
    removed: tuple[str, ...]
    reason: str | None
    verification: Mapping[str, Any] | None
    exit_code: ExitCode = ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """The document: JSON values only."""
        document = asdict(self)
        del document["exit_code"]
        return {"schema_version": SCHEMA_VERSION, **document}


def deploy(
    path: Path, config: Config, target: Target, dry_run: bool, progress: Progress
) -> Deployment:
    """Bring a bundle onto a target and let it be served there.

    Raises ``BundleError`` for a bundle that is not whole (looked at before anything is sent) and
    ``RunnerError`` if the box can't be reached or the connection breaks.
    """
    with unpacked(path) as bundle:
        name = f"{bundle.index.name}-{bundle.digest[:16]}{SUFFIX}"
    data = path.read_bytes()
    progress.say(f"connecting to {target.name}")
    with Worker(target.argv(sys.executable, MODULE), TIMEOUTS) as box:
        place = {"folder": config.deploy.folder}
        if dry_run:
            state = _ask(box, "look", place)
            sent = 0 if state["current"] == name else len(data)
            return _result(WOULD_DEPLOY, target, name, state, state["current"], sent)
        state = _ask(box, "open", place)
        before = state["current"]
        sent = _send(box, name, data, progress)
        progress.say(f"verifying {name} on {target.name}")
        arguments = _arguments(config)
        verified = _ask(box, "verify", {"name": name, "arguments": arguments})
        if verified["code"]:
            removed = _ask(box, "tidy", {})["removed"]
            done = _result(REFUSED, target, name, state, before, sent, verified)
            return replace(done, removed=tuple(removed))
        state = _ask(box, "switch", {"name": name})
        progress.say(f"{name} is in front")
        failed = _settle(box, config, arguments, restart=before != name)
        if failed and before != name:  # without an earlier one: nothing is served
            state = _ask(box, "switch", {"name": PREVIOUS})
            if config.deploy.restart:
                _ask(box, "restart", {"unit": config.deploy.restart})
            return _result(ROLLED_BACK, target, name, state, before, sent, failed)
        removed = _ask(box, "tidy", {})["removed"]
        outcome = UNCHANGED if before == name else DEPLOYED
        done = _result(outcome, target, name, state, before, sent, failed or verified)
        return replace(done, removed=tuple(removed))


def _send(box: Worker, name: str, data: bytes, progress: Progress) -> int:
    """Send the archive unless the box has it; returns the bytes that were sent."""
    about = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
    if _ask(box, "put", about)["here"]:
        return 0
    progress.say(f"sending {len(data) >> 20} MiB")
    _ask(box, "put", about, {"bundle": data})
    return len(data)


def _settle(
    box: Worker, config: Config, arguments: list[str], restart: bool
) -> Mapping[str, Any] | None:
    """Verify what is in front, in its place, and restart the service; what failed, if it did."""
    found = _ask(box, "verify", {"name": CURRENT, "arguments": arguments})
    if found["code"]:
        return found
    if config.deploy.restart and restart:
        unit = config.deploy.restart
        restarted = _ask(box, "restart", {"unit": unit})
        if restarted["code"]:
            error = f"{unit} did not come up: {restarted['error']}"
            return {**found, "code": int(ExitCode.RUNNER), "error": error}
    return None


def _arguments(config: Config) -> list[str]:
    """The flags of `edgepipe verify` there: the same checks, whatever its configuration says."""
    flags: list[str] = []
    for flag, value in (
        ("--key", config.deploy.key),
        ("--runner", config.verify.runner),
        ("--variant", config.verify.variant),
        ("--samples", config.verify.samples),
    ):
        if value is not None:
            flags += [flag, str(value)]
    return flags


def _ask(
    box: Worker, operation: str, fields: Mapping[str, Any], blobs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    reply, _ = box.request(operation, fields, blobs or {}, TIMEOUTS.run)
    return reply


def _result(
    outcome: str,
    target: Target,
    name: str,
    state: Mapping[str, Any],
    before: str | None,
    sent: int,
    verified: Mapping[str, Any] | None = None,
) -> Deployment:
    code = verified["code"] if verified else 0
    known = {int(one) for _, one in EXIT_CODES} | {0, int(ExitCode.INCONCLUSIVE)}
    return Deployment(
        target=target.name,
        folder=state["folder"],
        bundle=name,
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


def _reason(verified: Mapping[str, Any]) -> str:
    """The one line that says why it did not hold."""
    if verified["error"]:
        return verified["error"].splitlines()[-1].removeprefix("edgepipe: ")
    checks = (verified["document"] or {}).get("checks", ())
    bad = [f"{one['name']}: {one['text']}" for one in checks if one["verdict"] not in _FINE]
    return "; ".join(bad) or f"verify ended with exit code {verified['code']}"


_FINE = ("pass", "waived", "not checked")
