"""Artifacts on disk: what a model's folder holds, proven by hashes, changed all at once.

A command that makes artifacts works in a ``Transaction``. Its files are written to
``.staging`` and, once every one of them and the new manifest are on the disk, that folder is
renamed to ``.commit``: from this moment the new state holds. The files are then moved into
place, the manifest last. A run that is killed before the rename leaves the old state, one
killed after it leaves work that the next command finishes; there is no third case.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from ...runners import documents
from ...runners.machine.files import (
    is_file_name,
    move_synced,
    sha256_file,
    sync_folder,
    write_synced,
)
from ...runners.machine.locks import hold
from ..errors import IntegrityError, WorkspaceError
from .atomic import writing
from .document import Document
from .manifest import RESTORE, Artifact, Manifest, Recommendation, StageRecord

MANIFEST = "manifest.json"
STAGING, COMMIT = ".staging", ".commit"
LOCK, HOLDER = ".lock", ".holder"
# What runners built of the artifacts; see ``cells.engines``.
ENGINES = "engines"
TEMPORARY_SUFFIX = ".tmp"
_writing = partial(writing, instead="choose another --workspace")
# What judging commands leave beside the artifacts; not part of what the manifest describes.
RESULTS = frozenset(
    {
        *("bench.json", "bench.npz", "evaluation.json", "parity.json", "parity.npz"),
        *("explain.json", "explain.svg", "report.html", "report.md", "tune.json"),
        *("profile.json", "search.json", "soak.json"),
    }
)
# A folder of finished shards, of commands on a cluster that were interrupted.
SHARDS = "shards"


def models_in(root: Path) -> list[str]:
    """The names of the models that were exported into a workspace."""
    return sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))


class Workspace:
    """The folder of one model: ``root/model``. Use it inside ``locked()``."""

    def __init__(self, root: Path, model: str) -> None:
        self.folder = root / model

    @contextmanager
    def locked(self, command: str, say: Callable[[str], None]) -> Iterator[Self]:
        """Hold the workspace alone, with whatever a killed run left behind tidied up.

        The kernel frees the lock of a killed process. While another process holds it this one
        says who that is and waits. Raises ``WorkspaceError`` if the folder can't be written.
        """
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = hold(
                self.folder / LOCK,
                waiting=lambda: say(f"waiting for {self.folder}: in use by {self._holder()}"),
            )
        try:
            with _writing(self.folder):
                self._recover()
                holder = f"process {os.getpid()} ({command})"
                # A new file each time: writing to a left-over one also works in a read-only folder.
                (self.folder / HOLDER).unlink(missing_ok=True)
                (self.folder / HOLDER).write_text(holder)
            yield self
        finally:
            with suppress(OSError):  # it only says who held the lock
                (self.folder / HOLDER).unlink()
            os.close(lock)

    @contextmanager
    def exported(self, command: str, say: Callable[[str], None]) -> Iterator[Manifest]:
        """For commands that judge what is there: ``locked``, with the verified manifest.

        Nothing is created where nothing was exported. Raises as ``verified`` does.
        """
        if not self.folder.is_dir():
            raise self._nothing()
        with self.locked(command, say):
            yield self.verified()

    def manifest(self) -> Manifest | None:
        """The manifest, or ``None`` in a folder that has none yet."""
        path = self.folder / MANIFEST
        try:
            return Manifest.from_json(path.read_text(), path)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{path}: can't be read ({error}); {RESTORE}") from error

    def verified(self) -> Manifest:
        """The manifest, after every artifact was found to be the one it describes.

        Raises ``WorkspaceError`` if nothing was exported yet, ``IntegrityError`` for an
        artifact that is edited, missing or extra.
        """
        manifest = self.manifest()
        if manifest is None:
            raise self._nothing()
        for name in manifest.artifacts:
            if not (self.folder / name).is_file():
                raise IntegrityError(f"{self.folder / name}: missing; {RESTORE}")
        self.check_unaltered(manifest)
        return manifest

    def check_unaltered(self, manifest: Manifest) -> None:
        """Raise ``IntegrityError`` for an edited or an extra file; a missing one may be made."""
        for name in manifest.artifacts:
            if self.state(manifest, name) == "edited":
                raise IntegrityError(
                    f"{self.folder / name}: not the file that the manifest describes; {RESTORE}"
                )
        for path in sorted(self.folder.iterdir()):
            known = path.name in manifest.artifacts or path.name in RESULTS
            if not known and path.name not in (MANIFEST, LOCK, HOLDER, SHARDS, ENGINES):
                raise IntegrityError(f"{path}: not in the manifest; move it elsewhere")

    def _nothing(self) -> WorkspaceError:
        others = models_in(self.folder.parent)
        hint = f", or use --model {' or '.join(others)}" if others else ""
        return WorkspaceError(
            f"{self.folder}: nothing exported yet; run `edgepipe export` or `edgepipe import`{hint}"
        )

    def state(self, manifest: Manifest, name: str) -> str:
        """ "intact", "edited" or "missing": an artifact against the manifest."""
        path, expected = self.folder / name, manifest.artifacts[name]
        if not path.is_file() or path.is_symlink():
            return "edited" if os.path.lexists(path) else "missing"
        if path.stat().st_size != expected.size or sha256_file(path) != expected.sha256:
            return "edited"
        return "intact"

    def write(self, result: Document) -> Path:
        """``write_result`` for a document, as the file that it says."""
        return self.write_result(result.FILE, documents.text(result.to_json()).encode())

    def write_result(self, name: str, data: bytes) -> Path:
        """Put one of ``RESULTS`` into the folder, whole or not at all."""
        path = self.folder / name
        temporary = self.folder / f".{name}{TEMPORARY_SUFFIX}"
        with _writing(path):
            try:
                write_synced(temporary, data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(self.folder)
        return path

    def _recover(self) -> None:
        if (self.folder / COMMIT).is_dir():
            finish_commit(self.folder)
        shutil.rmtree(self.folder / STAGING, ignore_errors=True)
        for leftover in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink()

    def _holder(self) -> str:
        try:
            return (self.folder / HOLDER).read_text() or "another process"
        except OSError:
            return "another process"


class Transaction:
    """New artifacts and stage records, invisible until ``commit``.

    Starts from the records of ``before`` and reads through to its artifacts, so that a stage
    sees one consistent set of files whether they are old or new. A context manager: leaving it
    without ``commit`` throws everything away. ``written`` are the artifacts that are new.
    """

    def __init__(self, workspace: Workspace, before: Manifest) -> None:
        self._folder = workspace.folder
        self._staging = workspace.folder / STAGING
        self._before = before
        self.written: dict[str, Artifact] = {}
        self.stages: dict[str, StageRecord] = {}

    def __enter__(self) -> Self:
        with _writing(self._staging):
            self._staging.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where an artifact can be read now."""
        return (self._staging if name in self.written else self._folder) / name

    def artifact(self, name: str) -> Artifact:
        """Hash and size of an artifact, new or kept."""
        return self.written.get(name) or self._before.artifacts[name]

    def write(self, name: str, data: bytes) -> None:
        """Stage a new artifact."""
        with _writing(self._folder / name):
            write_synced(self._staging / name, data)
        self.written[name] = Artifact(hashlib.sha256(data).hexdigest(), len(data))

    def take(self, files: Iterable[Path]) -> None:
        """Stage new artifacts that were written elsewhere, where they are no more then."""
        for source in files:
            place = self._staging / source.name
            with _writing(self._folder / source.name):
                move_synced(source, place)
                self.written[source.name] = Artifact(sha256_file(place), place.stat().st_size)

    def drop(self, names: Iterable[str]) -> None:
        """Forget new artifacts: of a stage that wrote them and then failed."""
        for name in names:
            del self.written[name]
            (self._staging / name).unlink()

    def recommend(self, found: Sequence[Recommendation]) -> Manifest:
        """Commit what was there with other recommendations."""
        self.stages = {stage.name: stage for stage in self._before.stages}
        return self.amend(recommended=found)

    def amend(
        self,
        variants: Mapping[str, Mapping[str, str]] | None = None,
        recommended: Sequence[Recommendation] | None = None,
    ) -> Manifest:
        """Commit these stages with what the manifest said of the model, and maybe other variants.

        The files of stages that aren't there any more are removed.
        """
        before = self._before
        return self.commit(
            recommended=recommended,
            model=before.model,
            preprocessing=before.preprocessing,
            labels=before.labels,
            variants=before.variants if variants is None else variants,
            tools=before.tools,
        )

    def commit(
        self, recommended: Sequence[Recommendation] | None = None, **sections: Any
    ) -> Manifest:
        """Make the new state the state. ``sections`` are the manifest's other fields.

        What was ``recommended`` before holds as long as the file that was tuned does.
        """
        names = [name for stage in self.stages.values() for name in stage.artifacts]
        artifacts = {name: self.artifact(name) for name in sorted(names)}
        hashes = {artifact.sha256 for artifact in artifacts.values()}
        if recommended is None:
            recommended = self._before.recommended
        manifest = Manifest(
            stages=tuple(self.stages.values()),
            artifacts=artifacts,
            recommended=tuple(
                found for found in recommended if found.evidence.get("sha256") in hashes
            ),
            **sections,
        )
        if manifest == self._before and not self.written:
            return manifest
        for name in (*self.written, MANIFEST):
            path = self._folder / name
            if path.is_dir() and not path.is_symlink():
                raise IntegrityError(f"{path}: a folder stands in its place; move it elsewhere")
        with _writing(self._folder):
            write_synced(self._staging / MANIFEST, manifest.to_json().encode())
            sync_folder(self._staging)
            self._staging.replace(self._folder / COMMIT)
        with _writing(self._folder, "The next command completes it"):
            sync_folder(self._folder)
            finish_commit(self._folder)
        return manifest


def finish_commit(folder: Path) -> None:
    """Move everything from ``.commit`` into place. Safe to repeat from any point."""
    commit = folder / COMMIT
    if (commit / MANIFEST).is_file():
        try:
            manifest = Manifest.from_json((commit / MANIFEST).read_text(), commit / MANIFEST)
        except (IntegrityError, WorkspaceError, ValueError) as error:
            raise IntegrityError(
                f"{commit}: what a killed run left is damaged; remove it, and export again"
            ) from error
        kept = set(manifest.artifacts)
        for path in sorted(commit.iterdir()):
            if path.name != MANIFEST:
                path.replace(folder / path.name)
        for name in _artifact_names(folder / MANIFEST) - kept:
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        (commit / MANIFEST).replace(folder / MANIFEST)
    commit.rmdir()
    sync_folder(folder)


def _artifact_names(manifest: Path) -> set[str]:
    """The artifacts of the state that is being replaced; a damaged manifest names none."""
    try:
        names = documents.parse(manifest.read_bytes())["artifacts"]
        return {name for name in names if is_file_name(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
