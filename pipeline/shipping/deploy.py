"""deploy: a bundle onto a box, verified there before it is served, with a way back.

All work is done by ``receiver``, a process on the box; this side asks for one step after the
other. A connection that breaks leaves the box with the last step that was completed, and every
step leaves it serving a verified bundle: the old one until ``switch``, from then on the new one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...runners.bundles.bundle import Index, older, unpacked
from ...runners.machine.files import sha256_file
from ...runners.targets import Target
from ...runners.workers.launch import Timeouts, Worker
from ..errors import EXIT_CODES, ExitCode, UsageError
from ..progress import Progress
from ..settings.load import load
from ..settings.options import takes
from ..settings.shipping import DeployConfig, DeployRequest, VerifyConfig
from ..storage.document import UNWRITTEN, Document
from .receiver import CURRENT, PREVIOUS

MODULE = f"{__package__}.receiver"
TIMEOUTS = Timeouts(start=60.0, run=600.0)
# One piece has ``TIMEOUTS.run`` to arrive, which is 28 kB/s at the least.
PIECE_BYTES = 16 << 20
# What a slow box does in a second of unpacking, hashing and reading a model.
SLOW_BYTES = 1 << 20
DEPLOYED, UNCHANGED, REFUSED, ROLLED_BACK = "deployed", "unchanged", "refused", "rolled back"
WOULD_DEPLOY = "would deploy"


@dataclass(frozen=True)
class Deployment(Document):
    """What became of it.

    ``outcome``: "deployed", "unchanged" (it was served already, and holds), "refused" (it did not
    verify there, nothing changed), "rolled back" (it did not hold once it was in front) or "would
    deploy" (a dry run). ``before`` and ``current`` are the names of what was and is served.
    ``verification`` is the document of `edgepipe verify` on the box.
    """

    MADE_BY = "edgepipe deploy"

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
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)


@takes(DeployRequest)
def deploy(request: DeployRequest) -> Deployment:
    """Bring a bundle onto a target, verify it there, and let it be served there.

    ``runner``, ``variant`` and ``samples`` are those of ``[verify]``, the other keywords the keys
    of ``[deploy]``. What became of it is in the result. Raises ``BundleError`` for a bundle that
    is not whole (looked at before anything is sent), ``UsageError`` for a target that computes as
    another CPU, and ``RunnerError`` if the box can't be reached or the connection breaks.
    """
    checks = {name: getattr(request, name) for name in ("runner", "variant", "samples")}
    config = load(request.flags(verify=checks))
    section, progress = config.deploy, request.progress
    path, target = request.bundle, config.places.target(request.target)
    if target.isa is not None:
        raise UsageError(f"target {target.name} computes as another CPU: nothing is served there")
    with unpacked(path) as bundle:
        index, name = bundle.index, bundle.file_name
    size = path.stat().st_size
    progress.say(f"connecting to {target.name}")
    with Worker(target.argv(sys.executable, MODULE), TIMEOUTS) as box:
        place = {"folder": section.folder}
        if request.dry_run:
            state = _ask(box, "look", place)
            sent = 0 if state["current"] == name else size
            return _result(WOULD_DEPLOY, target, name, state, state["current"], sent)
        state = _ask(box, "open", place)
        before = state["current"]
        if before not in (None, name) and (reason := _older(index, state, section)):
            verified = {"code": int(ExitCode.INTEGRITY), "document": None, "error": reason}
            return _result(REFUSED, target, name, state, before, 0, verified)
        sent = _send(box, name, path, progress)
        progress.say(f"verifying {name} on {target.name}")
        arguments = _arguments(section, config.verify)
        verified = _verify(box, name, arguments, size)
        if verified["code"]:
            removed = _ask(box, "tidy", {})["removed"]
            done = _result(REFUSED, target, name, state, before, sent, verified)
            return replace(done, removed=tuple(removed))
        switch = {"name": name, "downgrade": section.allow_downgrade}
        state = _ask(box, "switch", switch)
        progress.say(f"{name} is in front")
        failed = _settle(box, section, arguments, size, restart=before != name)
        if failed and before != name:  # without an earlier one: nothing is served
            state = _ask(box, "switch", {"name": PREVIOUS})
            if (again := _restart(box, section)) and before:
                failed = {**failed, "error": f"{_reason(failed)}; {before} is back, but {again}"}
            return _result(ROLLED_BACK, target, name, state, before, sent, failed)
        removed = _ask(box, "tidy", {})["removed"]
        outcome = UNCHANGED if before == name else DEPLOYED
        done = _result(outcome, target, name, state, before, sent, failed or verified)
        return replace(done, removed=tuple(removed))


def _older(index: Index, state: Mapping[str, Any], section: DeployConfig) -> str | None:
    """Why a bundle is not to take the place of the one that is served: it is an older one."""
    if section.allow_downgrade or state["name"] is None:
        return None
    served = {name: state[name] for name in ("name", "release", "created")}
    found = older(index, replace(index, **served))
    return f"{found}; --allow-downgrade serves it all the same" if found else None


def _send(box: Worker, name: str, path: Path, progress: Progress) -> int:
    """Send of the archive what the box does not have yet; returns the bytes that were sent."""
    size = path.stat().st_size
    about = {"name": name, "sha256": sha256_file(path), "size": size}
    state = _ask(box, "put", about)
    sent = 0
    with path.open("rb") as file:
        while not state["here"]:
            progress.step(state["have"], size, f"sending {size >> 20} MiB")
            file.seek(state["have"])
            piece = file.read(PIECE_BYTES)
            state = _ask(box, "put", about, {"piece": piece})
            sent += len(piece)
    progress.step(1, 1, "")
    return sent


def _verify(box: Worker, name: str, arguments: list[str], size: int) -> dict[str, Any]:
    seconds = TIMEOUTS.run + size / SLOW_BYTES
    return _ask(box, "verify", {"name": name, "arguments": arguments}, seconds=seconds)


def _settle(
    box: Worker, section: DeployConfig, arguments: list[str], size: int, restart: bool
) -> Mapping[str, Any] | None:
    """Verify what is in front, in its place, and restart the service; what failed, if it did."""
    found = _verify(box, CURRENT, arguments, size)
    if found["code"]:
        return found
    if restart and (error := _restart(box, section)):
        return {**found, "code": int(ExitCode.RUNNER), "error": error}
    return None


def _restart(box: Worker, section: DeployConfig) -> str | None:
    """Restart the service, if there is one, and watch it: why it is not up, ``None`` if it is."""
    if not section.restart:
        return None
    about = {"unit": section.restart, "seconds": section.settle}
    done = _ask(box, "restart", about, seconds=TIMEOUTS.run + section.settle)
    return f"{about['unit']} did not come up: {done['error']}" if done["code"] else None


def _arguments(section: DeployConfig, checks: VerifyConfig) -> list[str]:
    """The flags of `edgepipe verify` there: the same checks, whatever its configuration says."""
    flags: list[str] = []
    for flag, value in (
        ("--key", section.key),
        ("--runner", checks.runner),
        ("--variant", checks.variant),
        ("--samples", checks.samples),
    ):
        if value is not None:
            flags += [flag, str(value)]
    return flags


def _ask(
    box: Worker,
    operation: str,
    fields: Mapping[str, Any],
    blobs: Mapping[str, Any] | None = None,
    seconds: float = TIMEOUTS.run,
) -> dict[str, Any]:
    reply, _ = box.request(operation, fields, blobs or {}, seconds)
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
