"""What ``edgepipe runners`` lists: every runner there is on a target, or why it isn't.

Each is asked in a worker of its own, where its sessions would run, too: in its own interpreter
or on another machine, and whatever a broken one does costs its own row only.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ...runners import registry
from ...runners.base import RunnerError, RunnerUnavailable
from ...runners.targets import Target
from ...runners.workers.answers import Description
from ...runners.workers.launch import Worker
from ..cells.plan import not_there, python_of
from ..cells.session import interpreter, status_of, timeouts_of
from ..settings.load import load
from ..settings.machine import Places, RunnersRequest
from ..settings.options import takes
from ..storage.document import Document


@dataclass(frozen=True)
class RunnerFacts:
    """A runner's row. ``status`` is "ok", "unavailable" or "failed", the latter with a reason.

    ``origin`` is the distribution that a plug-in came with, ``install`` the command that makes
    a missing built-in runner work, ``python`` the interpreter if it has one of its own. ``remark``
    is what to know before choosing it.
    """

    name: str
    target: str
    status: str
    reason: str | None
    install: str | None
    origin: str | None
    python: str | None
    version: str | None
    devices: tuple[str, ...]
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    remark: str | None = None


@dataclass(frozen=True)
class Inventory(Document):
    """The runners of one or more targets."""

    MADE_BY = "edgepipe runners"

    runners: tuple[RunnerFacts, ...]


@takes(RunnersRequest)
def runners(request: RunnersRequest) -> Inventory:
    """Ask every runner on every target what it is and has, and why it can't run if it can't.

    Raises ``UsageError`` for an unknown target; a runner that fails is part of the result.
    """
    places = load(request.flags()).places
    targets = [places.target(name) for name in request.targets]
    rows: list[RunnerFacts] = []
    unreachable: dict[tuple[str, ...], RunnerError] = {}
    names = registry.names()
    for number, target in enumerate(targets):
        for position, name in enumerate(names):
            done, total = number * len(names) + position, len(targets) * len(names)
            request.progress.step(done, total, f"{name} on {target.name}")
            rows.append(_facts(name, target, places, unreachable))
    request.progress.step(1, 1, "")
    return Inventory(tuple(rows))


def _facts(
    name: str, target: Target, places: Places, unreachable: dict[tuple[str, ...], RunnerError]
) -> RunnerFacts:
    entry, python = registry.entry(name), None
    answer: Description | RunnerError
    try:
        python = python_of(name, places)
        if reason := not_there(name, target, places):
            raise RunnerUnavailable(reason)
        python = interpreter(target, python) if target.environment else python
        answer = _ask(name, target, python or sys.executable, unreachable)
    except RunnerError as error:  # its environment is damaged, or it isn't one for the target
        answer = error
    install: str | None = None
    if isinstance(answer, RunnerError):
        status = status_of(answer)
        answer = Description(entry.formats or (), (), str(answer), None, (), {})
    elif answer.reason is None:
        status = "ok"
    else:
        status, install = "unavailable", entry.install or None
    return RunnerFacts(
        name=name,
        target=target.name,
        status=status,
        reason=answer.reason,
        install=install,
        origin=entry.origin,
        python=python,
        version=answer.version,
        devices=answer.devices,
        formats=answer.formats,
        precisions=answer.precisions,
        remark=entry.remark or None,
    )


def _ask(
    name: str, target: Target, python: str, unreachable: dict[tuple[str, ...], RunnerError]
) -> Description | RunnerError:
    """One worker, one question. A command that starts no worker is tried once."""
    command = tuple(target.argv(python))
    if command in unreachable:
        return unreachable[command]
    try:
        with Worker(command, timeouts_of(target)) as worker:
            return worker.describe(name)
    except RunnerError as error:
        if not error.greeted:
            unreachable[command] = error
        return error
