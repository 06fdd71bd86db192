"""Stages: what one is, and the loop that runs those whose result is out of date."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

from ...exporters.base import ModelError
from ...runners.base import SessionError, WorkerError
from ...runners.machine.files import temporary_files
from ..errors import MissingLibrary, StageError
from ..progress import Progress
from ..storage.manifest import Manifest, StageRecord, digest
from ..storage.workspace import Transaction, Workspace

# What a model may do to a stage. Want of space or of a library isn't the model's fault.
FAILURES = (StageError, ModelError, SessionError, WorkerError)


class Stage(Protocol):
    """One step from artifacts to artifacts.

    ``requires`` and ``ensures`` name the artifacts it reads and writes; the loop checks both. What
    it writes besides is an artifact of it as well.
    """

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> tuple[str, ...]: ...
    @property
    def ensures(self) -> tuple[str, ...]: ...

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        """All that the result depends on, as JSON values: options, digests, versions."""
        ...

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        """Write the artifacts; return what there is to say about them, as JSON values.

        With "again" the next export runs the stage although nothing has changed: for results
        that it could do no better this time.
        """
        ...


def run_stages(
    stages: Sequence[Stage],
    workspace: Workspace,
    before: Manifest,
    transaction: Transaction,
    progress: Progress,
    dispensable: Collection[str] = (),
) -> dict[str, Exception]:
    """Run the stages in order; one whose key and files are unchanged is left as it is.

    The failure of a ``dispensable`` stage costs what it makes, and the dispensable ones that need
    that. Returns why, by the names of those stages.
    """
    failed: dict[str, Exception] = {}
    absent: dict[str, Exception] = {}
    for number, stage in enumerate(stages):
        progress.step(number, len(stages), stage.name)
        before_it = set(transaction.written)
        try:
            if lost := [absent[name] for name in stage.requires if name in absent]:
                raise lost[0]
            _run(stage, workspace, before, transaction, progress)
        except FAILURES as error:
            if stage.name not in dispensable:
                raise
            transaction.drop(set(transaction.written) - before_it)
            failed[stage.name] = error
            absent |= dict.fromkeys(stage.ensures, error)
    progress.step(len(stages), len(stages), "")
    return failed


def _run(
    stage: Stage,
    workspace: Workspace,
    before: Manifest,
    transaction: Transaction,
    progress: Progress,
) -> None:
    """Run a stage that is out of date, and note what it made."""
    for name in stage.requires:
        if not transaction.path(name).is_file():
            raise StageError(f"stage {stage.name} needs {name}, which no stage made")
    depends = stage.depends(transaction)
    key = digest(depends)
    if record := up_to_date(stage.name, key, workspace, before):
        progress.say(f"{stage.name:<9} up to date")
        transaction.stages[stage.name] = record
        return
    started, before_it = perf_counter(), set(transaction.written)
    try:
        with temporary_files():
            result = stage.run(transaction, progress)
    except ImportError as error:
        raise MissingLibrary(
            f'stage {stage.name}: {error}; pip install "edgepipe[cpu,export]"'
        ) from error
    for name in stage.ensures:
        if not transaction.path(name).is_file():
            raise StageError(f"stage {stage.name} ended without writing {name}")
    # A model of over 2 GiB has a file with its tensors besides.
    more = sorted(set(transaction.written) - before_it - set(stage.ensures))
    made = (*stage.ensures, *more)
    transaction.stages[stage.name] = StageRecord(stage.name, key, depends, made, result)
    said = result.get("summary", "")
    progress.say(f"{stage.name:<9} {said}  ({perf_counter() - started:.1f} s)")


def up_to_date(name: str, key: str, workspace: Workspace, before: Manifest) -> StageRecord | None:
    """The record of an earlier run that holds: of the same key, its files all intact."""
    record = before.stage(name)
    if record is None or record.key != key or record.result.get("again"):
        return None
    intact = all(workspace.state(before, artifact) == "intact" for artifact in record.artifacts)
    return record if intact else None
