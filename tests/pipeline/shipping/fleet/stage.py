"""Boxes in this process: the real receiver with its folder, links and lock, without a model.

What `edgepipe verify` would say is decided by the bundle's name and the box; a box can be away, die
at a step, or be slow. Everything else is what runs on a real box.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgepipe.pipeline.settings.shipping import RolloutRequest
from edgepipe.pipeline.shipping.delivery import Line, Release
from edgepipe.pipeline.shipping.fleet import journal, rounds
from edgepipe.pipeline.shipping.fleet.rollout import roll_out
from edgepipe.pipeline.shipping.fleet.rollout_result import Rollout
from edgepipe.pipeline.shipping.receiver import Receiver
from edgepipe.runners import registry
from edgepipe.runners.base import WorkerCrashed
from edgepipe.runners.targets import Target
from edgepipe.runners.workers import protocol

from .... import bundles

HOST = {"name": "box", "machine": "x86_64", "cpu_flags": [], "physical_cores": 1}


class Killed(BaseException):
    """What ends a controller at once, as ``kill -9`` would: nothing is written after it."""


def gone(operation: str) -> WorkerCrashed:
    error = WorkerCrashed(f"the worker ended during {operation!r}: exit status 255 (no route)")
    error.greeted = operation != "hello"
    return error


@dataclass
class Stage:
    """A fleet in a folder. ``said`` holds what verify says of a bundle on a box: a code, or a p99.

    ``away`` is how often each box gives no answer before it does; ``dies`` the step at which one
    goes, for good unless ``away`` says how long.
    """

    folder: Path
    names: tuple[str, ...]
    extra: str = ""
    said: dict[tuple[str, str], int | float] = field(default_factory=dict)
    limit: float | None = None
    away: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    dies: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fleet = self.folder / "fleet.toml"
        tables = [
            f'[[box]]\nname = "{name}"\ncommand = ["{{python}}", "{name}"]\n'
            f'folder = "{self.folder / name}"\n'
            for name in self.names
        ]
        self.fleet.write_text("\n".join(tables) + self.extra)
        self.old, self.new = (self._release(label) for label in ("old", "new"))
        self._names = {path: Release.of(path).name for path in (self.old, self.new)}
        self.journal = self.folder / "rollout.jsonl"

    def _release(self, label: str) -> Path:
        contents = bundles.contents(provenance={"label": label})
        return bundles.write(self.folder / f"{label}.tar.gz", contents)

    def name(self, path: Path) -> str:
        return self._names[path]

    def serve_old(self) -> None:
        """Every box serves the old release and nothing was ever rolled out."""
        self.journal.unlink(missing_ok=True)
        for name in self.names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            releases = self.folder / name / "releases"
            releases.mkdir(parents=True)
            (releases / self.name(self.old)).write_bytes(self.old.read_bytes())
            (self.folder / name / "current").symlink_to(Path("releases") / self.name(self.old))
        self.asked.clear()

    def roll_out(self, bundle: Path | None = None, **said: Any) -> Rollout:
        given = {"parallel": 1, "wait": "0.1s", **said}
        request = RolloutRequest(fleet=self.fleet, bundle=bundle or self.new, **given)
        return roll_out(request, self.dial)

    def dial(self, target: Target) -> Line:
        return Here(target, self)

    def served(self) -> dict[str, str | None]:
        """Which release each box serves: "old", "new" or nothing."""
        labels = {self.name(path): path.name.split(".")[0] for path in (self.old, self.new)}
        found: dict[str, str | None] = {}
        for name in self.names:
            link = self.folder / name / "current"
            found[name] = labels[os.readlink(link).split("/")[-1]] if link.is_symlink() else None
        return found

    def verdict(self, box: str, name: str) -> dict[str, Any]:
        release = Path(os.path.realpath(self.folder / box / name)).name
        label = "old" if release == self.name(self.old) else "new"
        said = self.said.get((box, label), self.said.get(("*", label), 0))
        p99 = said if isinstance(said, float) else None
        code = 0 if isinstance(said, float) else said
        if p99 is not None and self.limit is not None and p99 > self.limit:
            code = 1
        checks = [{"name": "answers", "verdict": "fail" if code else "pass", "text": "as told"}]
        document = {"checks": checks, "p99_ms": p99, "max_p99_ms": self.limit}
        return {"code": code, "document": document, "error": ""}


class Here(Line):
    """A line to a receiver in this process."""

    def __init__(self, target: Target, stage: Stage) -> None:
        super().__init__(target.argv("python"))
        self._box, self._stage = target.name, stage
        self._receiver = Receiver()
        self._receiver.verify = self._verify
        self._operations = self._receiver.operations()

    def start(self) -> None:
        return

    def interrupt(self) -> None:
        return

    def request(
        self,
        operation: str,
        fields: Mapping[str, Any],
        blobs: Mapping[str, Any],
        timeout: float,
    ) -> tuple[protocol.Message, dict[str, Any]]:
        stage = self._stage
        stage.asked.append((self._box, operation))
        if operation == "hello":
            if stage.away[self._box] > 0:
                stage.away[self._box] -= 1
                raise gone(operation)
            said = {"protocol": protocol.VERSION, "edgepipe": version("edgepipe"), "pid": 0}
            return {**said, "host": HOST}, {}
        dies = stage.dies.get(self._box, "")
        if dies == f"before {operation}":
            raise gone(operation)
        sent = {}
        for name, data in blobs.items():
            sent[name] = stage.folder / "piece"
            sent[name].write_bytes(data)
        answer = self._operations[operation](dict(fields), sent)
        if dies == f"after {operation}":
            raise gone(operation)
        return answer

    def close(self) -> None:
        if self._receiver._lock is not None:
            os.close(self._receiver._lock)
            self._receiver._lock = None

    def _verify(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        name = message["name"]
        path = name if name in ("current", "previous") else f"releases/{name}"
        found = self._stage.verdict(self._box, path)
        if not found["code"]:
            release = Path(os.path.realpath(self._stage.folder / self._box / path)).name
            self._receiver._verified.add(release)
        return found, {}


@contextmanager
def killed_after(lines: int, monkeypatch: Any) -> Iterator[None]:
    """Kill the controller when so many lines of a journal have been written."""
    note, written = journal.Journal.note, []

    def once(self: journal.Journal, kind: str, **fields: Any) -> None:
        if len(written) == lines:
            raise Killed
        note(self, kind, **fields)
        written.append(kind)
        if len(written) == lines:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "note", once)
        yield


@contextmanager
def killed_at(step: int, when: str, monkeypatch: Any) -> Iterator[None]:
    """Kill the controller "before" or "after" a box does the step that is asked of it."""
    request, asked = Here.request, []

    def once(self: Here, operation: str, *rest: Any) -> Any:
        asked.append(operation)
        if len(asked) == step and when == "before":
            raise Killed
        answer = request(self, operation, *rest)
        if len(asked) == step:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Here, "request", once)
        yield


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def hurry(monkeypatch: Any) -> None:
    """Rounds follow each other at once, and no line waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(registry, "_plugins", dict)
    monkeypatch.setattr(rounds, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(rounds, "LONGEST_PAUSE_SECONDS", 0.02)


Make = Callable[..., Stage]
