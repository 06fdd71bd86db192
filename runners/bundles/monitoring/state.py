"""What heartbeats have seen so far: one JSON file that lasts across runs, reboots and bundles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ... import documents
from ...base import BundleUnreadable
from ...machine.files import sync_folder, write_synced
from ...machine.locks import hold
from ..part import STRICT
from .replay import Beat

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Place:
    """What has to be the same for bits to be: else the next replay sets a new baseline."""

    __pydantic_config__ = STRICT
    bundle: str
    digest: str
    variant: str
    runner: str
    runner_version: str
    threads: int
    cpu: str
    goldens: int

    def changes(self, before: Self) -> str:
        """What is other than it was, in one line."""
        return ", ".join(
            f"{name} was {old}, is {getattr(self, name)}"
            for name, old in asdict(before).items()
            if old != getattr(self, name)
        )


@dataclass(frozen=True)
class Live:
    """What was counted of live images: how many, and those outside of each input's range.

    ``top1`` counts first classes since the window began, ``earlier`` those of the window before it;
    both are empty where the bundle has nothing to compare them with. Of ``probed`` images
    ``layers`` says how many left the range of a first layer's output.
    """

    __pydantic_config__ = STRICT
    images: int = 0
    outside: dict[str, int] = field(default_factory=dict)
    top1: tuple[int, ...] = ()
    earlier: tuple[int, ...] = ()
    probed: int = 0
    layers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The file. ``bits`` are the baseline's, set at ``since``; ``beats`` counts by verdict.

    Counts are of this ``place`` alone; ``said`` is why the last baseline was set.
    """

    __pydantic_config__ = STRICT
    schema_version: int = SCHEMA_VERSION
    place: Place | None = None
    bits: str | None = None
    since: str | None = None
    said: str | None = None
    beats: dict[str, int] = field(default_factory=dict)
    last: Beat | None = None
    live: Live = Live()

    def at(self, place: Place) -> Self:
        """The same for goldens that run in this place: anew where it is another one."""
        if place == self.place:
            return self
        said = None if self.place is None else f"a new baseline: {place.changes(self.place)}"
        return type(self)(place=place, said=said)

    def after(self, beat: Beat) -> Self:
        """With one more replay."""
        beats = {**self.beats, beat.verdict: self.beats.get(beat.verdict, 0) + 1}
        sets = self.bits is None and beat.first and beat.verdict == "pass"
        bits, since = (beat.bits, beat.at) if sets else (self.bits, self.since)
        return replace(self, beats=beats, last=beat, bits=bits, since=since)

    def joined(self, later: Self) -> Self:
        """With what a process saw of the same place before it could read this."""
        if not later.beats:
            return self
        beats = {
            name: self.beats.get(name, 0) + later.beats.get(name, 0)
            for name in {**self.beats, **later.beats}
        }
        bits, since = (self.bits, self.since) if self.bits else (later.bits, later.since)
        return replace(self, beats=beats, last=later.last, bits=bits, since=since)


class Store:
    """The files of a name in a folder: ``NAME.json``, ``NAME.prom`` and the lock between processes.

    One process has it at a time, until it is closed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Make the folder, and lock it. Raises ``OSError`` where that can't be."""
        self.path = folder / f"{name}.json"
        self._folder, self._name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = hold(folder / f".{name}.lock")
        except BlockingIOError as error:
            text = "in use by another process, choose another folder or name"
            raise OSError(error.errno, text, str(self.path)) from error

    def read(self) -> State:
        """The state, a new one where there is none.

        Raises ``OSError``, and ``BundleUnreadable`` for a damaged file, which is left as it is.
        """
        return read(self.path) or State()

    def write(self, state: State, metrics: str) -> None:
        """Put both files in place, each whole or not at all. Raises ``OSError``."""
        text = documents.text(asdict(state))
        for suffix, content in (("json", text), ("prom", metrics)):
            # The collector of node_exporter reads all that ends in .prom, half files as well.
            temporary = self._folder / f".{self._name}.{suffix}.tmp"
            try:
                write_synced(temporary, content.encode())
                temporary.replace(self._folder / f"{self._name}.{suffix}")
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
        sync_folder(self._folder)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)


def read(path: Path) -> State | None:
    """A state from its file, ``None`` if there is none. Raises as ``Store.read``."""
    from pydantic import TypeAdapter

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found: Mapping[str, Any] = documents.parse(data)
        if found.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema {found.get('schema_version')}, this reads {SCHEMA_VERSION}")
        return TypeAdapter(State).validate_json(data)
    except ValueError as error:
        why = documents.reason(error)
        raise BundleUnreadable(
            f"{path}: no state of a heartbeat ({why}); move it away to begin anew"
        ) from error
