"""Artifacts on disk: what a model's folder holds, proven by hashes, changed all at once.

A command that makes artifacts works in a ``Transaction``. Its files are written to
``.staging`` and, once every one of them and the new manifest are on the disk, that folder is
renamed to ``.commit``: from this moment the new state holds. The files are then moved into
place, the manifest last. A run that is killed before the rename leaves the old state, one
killed after it leaves work that the next command finishes; there is no third case.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import filelock

from .errors import IntegrityError, WorkspaceError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
STAGING, COMMIT = ".staging", ".commit"
LOCK, HOLDER = ".lock", ".holder"
TEMPORARY_SUFFIX = ".tmp"
# What judging commands leave beside the artifacts; not part of what the manifest describes.
RESULTS = frozenset(
    {
        *("bench.json", "bench.npz", "evaluation.json", "parity.json", "parity.npz"),
        *("explain.json", "explain.svg", "report.html", "report.md", "tune.json"),
    }
)


@dataclass(frozen=True)
class Artifact:
    """A file of the workspace: SHA-256 as hex digits, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class StageRecord:
    """What the manifest remembers of a stage: what it depended on, and what it made.

    ``key`` is the digest of ``depends``. ``result`` is what the stage has to say about it.
    """

    name: str
    key: str
    depends: Mapping[str, Any]
    artifacts: tuple[str, ...]
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """The settings that tune found fastest for a variant on a runner of a target.

    ``settings`` are keyword arguments of ``runners.base.Settings``; ``evidence`` is what was
    measured, on which file (its SHA-256 as ``sha256``), when and where.
    """

    variant: str
    runner: str
    target: str
    settings: Mapping[str, Any]
    evidence: Mapping[str, Any]
    scenario: str = "single-stream"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Which cell in which scenario: there is one recommendation for each."""
        return self.variant, self.runner, self.target, self.scenario


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Two equal exports make two equal manifests; ``recommended`` alone comes from measuring.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    tools: Mapping[str, str | None] = field(default_factory=dict)
    recommended: tuple[Recommendation, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of every artifact, by its file name."""
        return {name: artifact.sha256 for name, artifact in self.artifacts.items()}

    def stage(self, name: str) -> StageRecord | None:
        """The record of a stage, if it has run."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def maker(self, file: str) -> StageRecord | None:
        """The record of the stage that made an artifact."""
        return next((stage for stage in self.stages if file in stage.artifacts), None)

    def files(self, main: str) -> tuple[str, ...]:
        """A model's files: the main one, and those that its stage made beside it.

        They share the name before the suffix: ``fp32.xml`` has its weights in ``fp32.bin``.
        """
        stage = self.maker(main)
        beside = stage.artifacts if stage else ()
        stem = Path(main).stem
        return (main, *(name for name in beside if name != main and Path(name).stem == stem))

    def recommendation(
        self, variant: str, runner: str, target: str, scenario: str
    ) -> Recommendation | None:
        """What tune found for a cell, if the variant is still the file that was tuned."""
        cell = (variant, runner, target, scenario)
        for found in self.recommended:
            hashes = (self.artifacts[name].sha256 for name in self.variants[variant].values())
            if found.key == cell and found.evidence["sha256"] in hashes:
                return found
        return None

    def to_json(self) -> str:
        """Text with a digest of itself, so that an edit shows."""
        body = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return json.dumps({**body, "digest": digest(body)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> Self:
        """Parse and check. Raises ``IntegrityError`` for an edited or damaged manifest."""
        try:
            body = json.loads(text)
            claimed = body.pop("digest")
            schema = body.pop("schema_version")
            if schema != SCHEMA_VERSION:
                raise WorkspaceError(
                    f"{path}: schema {schema}, this edgepipe reads {SCHEMA_VERSION}: export again "
                    "into another --workspace"
                )
            if claimed != digest({"schema_version": schema, **body}):
                raise IntegrityError(f"{path}: edited since it was written; {_RESTORE}")
            stages = tuple(
                StageRecord(**{**stage, "artifacts": tuple(stage["artifacts"])})
                for stage in body.pop("stages")
            )
            artifacts = {name: Artifact(**entry) for name, entry in body.pop("artifacts").items()}
            recommended = tuple(Recommendation(**entry) for entry in body.pop("recommended", ()))
            return cls(stages=stages, artifacts=artifacts, recommended=recommended, **body)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"{path}: not a manifest ({error}); {_RESTORE}") from error


_RESTORE = "restore it, or make everything again with `edgepipe export --force`"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / LOCK)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                say(f"waiting for {self.folder}: in use by {self._holder()}")
                lock.acquire()
        try:
            with writing(self.folder):
                self._recover()
                holder = f"process {os.getpid()} ({command})"
                # A new file each time: writing to a left-over one also works in a read-only folder.
                (self.folder / HOLDER).unlink(missing_ok=True)
                (self.folder / HOLDER).write_text(holder)
            yield self
        finally:
            with suppress(OSError):  # it only says who held the lock
                (self.folder / HOLDER).unlink()
            lock.release()

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
            raise IntegrityError(f"{path}: can't be read ({error}); {_RESTORE}") from error

    def verified(self) -> Manifest:
        """The manifest, after every artifact was found to be the one it describes.

        Raises ``WorkspaceError`` if nothing was exported yet, ``IntegrityError`` for an
        artifact that is edited, missing or extra.
        """
        manifest = self.manifest()
        if manifest is None:
            raise self._nothing()
        for name in manifest.artifacts:
            if self.state(manifest, name) == "missing":
                raise IntegrityError(f"{self.folder / name}: missing; {_RESTORE}")
        self.check_unaltered(manifest)
        return manifest

    def check_unaltered(self, manifest: Manifest) -> None:
        """Raise ``IntegrityError`` for an edited or an extra file; a missing one may be made."""
        for name in manifest.artifacts:
            if self.state(manifest, name) == "edited":
                raise IntegrityError(
                    f"{self.folder / name}: not the file that the manifest describes; {_RESTORE}"
                )
        for path in sorted(self.folder.iterdir()):
            known = path.name in manifest.artifacts or path.name in RESULTS
            if not known and path.name != MANIFEST and path.name not in (LOCK, HOLDER):
                raise IntegrityError(f"{path}: not in the manifest; move it elsewhere")

    def _nothing(self) -> WorkspaceError:
        others = sorted(path.parent.name for path in self.folder.parent.glob(f"*/{MANIFEST}"))
        hint = f", or use --model {' or '.join(others)}" if others else ""
        return WorkspaceError(f"{self.folder}: nothing exported yet; run `edgepipe export`{hint}")

    def state(self, manifest: Manifest, name: str) -> str:
        """ "intact", "edited" or "missing": an artifact against the manifest."""
        path, expected = self.folder / name, manifest.artifacts[name]
        if not path.is_file() or path.is_symlink():
            return "edited" if os.path.lexists(path) else "missing"
        if path.stat().st_size != expected.size or sha256_file(path) != expected.sha256:
            return "edited"
        return "intact"

    def write_json(self, name: str, document: Any) -> Path:
        """``write_result`` for a JSON document."""
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        return self.write_result(name, text.encode())

    def write_result(self, name: str, data: bytes) -> Path:
        """Put one of ``RESULTS`` into the folder, whole or not at all."""
        path = self.folder / name
        temporary = self.folder / f".{name}{TEMPORARY_SUFFIX}"
        with writing(path):
            try:
                write_synced(temporary, data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(self.folder)
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
    without ``commit`` throws everything away.
    """

    def __init__(self, workspace: Workspace, before: Manifest) -> None:
        self._folder = workspace.folder
        self._staging = workspace.folder / STAGING
        self._before = before
        self._written: dict[str, Artifact] = {}
        self.stages: dict[str, StageRecord] = {}

    def __enter__(self) -> Self:
        with writing(self._staging):
            self._staging.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where an artifact can be read now."""
        return (self._staging if name in self._written else self._folder) / name

    def artifact(self, name: str) -> Artifact:
        """Hash and size of an artifact, new or kept."""
        return self._written.get(name) or self._before.artifacts[name]

    def write(self, name: str, data: bytes) -> None:
        """Stage a new artifact."""
        with writing(self._folder / name):
            write_synced(self._staging / name, data)
        self._written[name] = Artifact(hashlib.sha256(data).hexdigest(), len(data))

    def recommend(self, found: Sequence[Recommendation]) -> Manifest:
        """Commit what was there with other recommendations."""
        before = self._before
        self.stages = {stage.name: stage for stage in before.stages}
        return self.commit(
            recommended=found,
            model=before.model,
            preprocessing=before.preprocessing,
            labels=before.labels,
            variants=before.variants,
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
            recommended=tuple(found for found in recommended if found.evidence["sha256"] in hashes),
            **sections,
        )
        if manifest == self._before and not self._written:
            return manifest
        for name in (*self._written, MANIFEST):
            path = self._folder / name
            if path.is_dir() and not path.is_symlink():
                raise IntegrityError(f"{path}: a folder stands in its place; move it elsewhere")
        with writing(self._folder):
            write_synced(self._staging / MANIFEST, manifest.to_json().encode())
            _sync_folder(self._staging)
            self._staging.replace(self._folder / COMMIT)
        with writing(self._folder, "The next command completes it"):
            _sync_folder(self._folder)
            finish_commit(self._folder)
        return manifest


def finish_commit(folder: Path) -> None:
    """Move everything from ``.commit`` into place. Safe to repeat from any point."""
    commit = folder / COMMIT
    if (commit / MANIFEST).is_file():
        kept = json.loads((commit / MANIFEST).read_text())["artifacts"]
        for path in sorted(commit.iterdir()):
            if path.name != MANIFEST:
                path.replace(folder / path.name)
        for name in _artifact_names(folder / MANIFEST) - set(kept):
            (folder / name).unlink(missing_ok=True)
        _sync_folder(folder)
        (commit / MANIFEST).replace(folder / MANIFEST)
    commit.rmdir()
    _sync_folder(folder)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Put a file that stands by itself in place, whole or not at all, with the folder it is in.

    Raises ``WorkspaceError`` if it can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(temporary, data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def writable(root: Path) -> None:
    """Make a folder ready to be written to. Raises ``WorkspaceError`` where that can't be."""
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path, state: str = "What was there is unchanged") -> Iterator[None]:
    """Turn a failed write into a ``WorkspaceError`` that says where and why."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.EFBIG: "raise the limit on the size of a file",
        }.get(error.errno or 0, "choose another --workspace")
        raise WorkspaceError(
            f"can't write {path}: {error.strerror or error}; {hint}. {state}"
        ) from error


def _artifact_names(manifest: Path) -> set[str]:
    """The artifacts of the state that is being replaced; a damaged manifest names none."""
    try:
        names = json.loads(manifest.read_text())["artifacts"]
        return {name for name in names if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # a folder can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
