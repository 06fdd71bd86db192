"""Finished shards on disk, so that a run that was interrupted goes on where it was.

They lie in the workspace, ``shards/COMMAND/KEY/SHARD.npz``: the key is the digest of everything
that all shards depend on, the shard's own name that of what it is about. A run with another key
throws away what there is, and one that comes to its end leaves nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....runners.machine.files import write_synced
from ...errors import IntegrityError
from ...storage.atomic import writing
from ...storage.workspace import SHARDS, TEMPORARY_SUFFIX
from . import answers
from .answers import Answer


@dataclass(frozen=True)
class Kept:
    """The finished shards of one command in a locked workspace."""

    folder: Path

    @classmethod
    def of(cls, workspace: Path, command: str, key: str) -> Kept:
        """Those of an earlier run with the same key; any others are gone then."""
        _check(workspace, command)
        found = workspace / SHARDS / command
        for other in found.iterdir() if found.is_dir() else ():
            if other.name != key:
                shutil.rmtree(other)
        return cls(found / key)

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.npz")))

    def load(self, shard: str) -> list[Answer] | None:
        """The answers to a shard, ``None`` for one that isn't finished."""
        path = self._path(shard)
        return answers.load(path) if path.is_file() else None

    def keep(self, shard: str, given: Sequence[Answer]) -> None:
        """Write down the answers to a shard, unless there are errors: those are tried again."""
        if any(one.loaded is None for one in given):
            return
        path = self._path(shard)
        temporary = path.with_suffix(TEMPORARY_SUFFIX)
        with writing(path, "Finished shards are kept"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_synced(temporary, answers.to_bytes(given))
            temporary.replace(path)

    def _path(self, shard: str) -> Path:
        return self.folder / f"{shard}.npz"


def forget(workspace: Path, command: str) -> None:
    """Remove a command's shards: its result is written."""
    _check(workspace, command)
    shutil.rmtree(workspace / SHARDS / command, ignore_errors=True)
    if (workspace / SHARDS).is_dir() and not any((workspace / SHARDS).iterdir()):
        (workspace / SHARDS).rmdir()


def _check(workspace: Path, command: str) -> None:
    """A workspace of somebody else's may have a link there, to what isn't edgepipe's to remove."""
    for path in (workspace / SHARDS, workspace / SHARDS / command):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise IntegrityError(f"{path}: not a folder of edgepipe's; move it elsewhere")
