"""The journal of a rollout: a line of JSON for each thing, on the disk before the next happens.

It is only ever added to. What a kill or a full disk leaves of a last line is dropped when the
rollout goes on; one rollout at a time has the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from ....runners import documents
from ....runners.machine.files import sync_folder
from ....runners.machine.locks import hold
from ...errors import InputError, UsageError
from ...storage.atomic import writing

SCHEMA_VERSION = 1
# What happens, in this order; those of boxes come as they come.
BEGUN, WAVE, OPENED, BOX, SOAK, GATE, ENDED = (
    "begun",
    "wave",
    "opened",
    "box",
    "soak",
    "gate",
    "end",
)
KINDS = (BEGUN, WAVE, OPENED, BOX, SOAK, GATE, ENDED)
Event = Mapping[str, Any]
OPENING = b'{"event": "'
STATE = "Once that is done, --resume goes on"


class Journal:
    """An open journal, to add to from any thread. ``events`` are those of its last rollout."""

    def __init__(self, path: Path, descriptor: int, events: list[Event]) -> None:
        self._path, self._descriptor, self._lock = path, descriptor, Lock()
        self.events = events

    def note(self, kind: str, **fields: Any) -> None:
        """Add a line, and wait until it is on the disk. Raises ``WorkspaceError``."""
        event = {"event": kind, "at": now().isoformat(timespec="seconds"), **fields}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock, writing(self._path, STATE):
            self._write(line.encode())
            if kind == BEGUN:
                self.events.clear()
            self.events.append(event)

    def _write(self, line: bytes) -> None:
        """All of it or nothing: a line after half of another one would be lost, too."""
        whole = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, whole)
            os.lseek(self._descriptor, whole, os.SEEK_SET)
            raise


def now() -> datetime:
    """The time as the journal has it."""
    return datetime.now(UTC)


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """A journal to add to, made where there is none; nobody else has it until this is left.

    Raises ``UsageError`` where somebody has it, ``InputError`` for a file that is no journal, and
    ``WorkspaceError`` for one that can't be written.
    """
    with writing(path, "Nothing was begun", "choose another --journal"):
        try:
            descriptor = hold(path)
        except BlockingIOError as error:
            text = f"{path}: another rollout is running; wait for it, or stop it"
            raise UsageError(text) from error
    try:
        _check_file(path)
        with writing(path, "Nothing was begun", "choose another --journal"):
            whole, events = _parsed(path, _content(descriptor))
            os.ftruncate(descriptor, whole)
            os.lseek(descriptor, whole, os.SEEK_SET)
            sync_folder(path.absolute().parent)
        yield Journal(path, descriptor, events)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Event]:
    """The events of the last rollout in a journal. Raises ``InputError`` for what is none."""
    try:
        path.stat()
        _check_file(path)
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    _, events = _parsed(path, data)
    if not events:
        raise InputError(f"{path}: no rollout in it; `edgepipe rollout` writes one")
    return events


def _check_file(path: Path) -> None:
    """Raise ``InputError`` for a device or a pipe, which may have no end."""
    if not path.is_file():
        raise InputError(f"{path}: no file; choose another --journal")


def _content(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _parsed(path: Path, data: bytes) -> tuple[int, list[Event]]:
    """How many bytes are whole lines, and the events of the last rollout in them."""
    whole = data.rfind(b"\n") + 1
    rest = data[whole:]
    if not (rest.startswith(OPENING) or OPENING.startswith(rest)):
        raise InputError(f"{path}: no journal of a rollout; choose another --journal")
    events: list[Event] = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            event = documents.parse(line)
            if event.get("event") not in KINDS or not isinstance(event.get("at"), str):
                raise ValueError("no event of a rollout")
            if event["event"] == BEGUN:
                if event.get("schema_version") != SCHEMA_VERSION:
                    raise ValueError(f"schema {event.get('schema_version')}, this reads 1")
                events = []
            elif not events:
                raise ValueError("a rollout that never began")
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is none of a journal ({error}); choose another --journal"
            ) from error
        events.append(event)
    return whole, events
