"""A command's work spread over a cluster: cut into shards, put together again, kept meanwhile.

Shards are cut where the single run cuts its batches, so that a session is fed the same arrays in
both, and gives the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....runners.base import RunnerError, SessionError
from ....runners.images import Preprocessing
from ....runners.workers.answers import Loaded
from ...errors import ClusterError
from ...progress import Progress
from ...storage.dataset import Dataset
from ...storage.manifest import digest
from ..scoring import chunk_of
from ..session import Cell, batch_of, files_of
from . import cluster, images, tasks
from .answers import Answer
from .cluster import Cluster
from .environment import Needs
from .files import Files
from .images import Part
from .kept import Kept
from .shards import Shard, Shards
from .tasks import Asked, Sent

# Images of a shard: about so many shards, of no fewer and no more images than these.
SHARDS, FEWEST, MOST = 64, 64, 512
# Goldens of a shard.
GOLDENS = 16
# Cells that go through the same images.
MOST_TOGETHER = 8


@dataclass(frozen=True)
class ClusterUse:
    """How work was spread. ``address`` is the scheduler's, or "local:N"; ``machines`` are names.

    Of ``shards``, ``resumed`` are those that an interrupted run had finished; ``retried`` counts
    those that were done again after a worker was lost.
    """

    address: str
    workers: int
    machines: tuple[str, ...]
    shards: int
    resumed: int
    retried: int


@dataclass
class Ran:
    """What a cell gave on a cluster: the session, its machine, arrays by name; or the error."""

    loaded: Loaded | None = None
    host: Mapping[str, Any] = field(default_factory=dict)
    error: RunnerError | None = None
    pieces: dict[int, Mapping[str, np.ndarray]] = field(default_factory=dict)
    _failed_at: int = -1

    def take(self, start: int, answer: Answer) -> None:
        """Take in the answer to the shard that begins at ``start``."""
        if answer.error is not None:
            # As in a single run it is the first error, going by the images and not by the clock.
            if self.error is None or start < self._failed_at:
                self.error, self._failed_at = answer.error, start
        elif answer.loaded is not None:
            if self.loaded is None:
                self.loaded, self.host = answer.loaded, answer.host
            self.pieces[start] = answer.arrays

    def arrays(self) -> dict[str, np.ndarray]:
        """All pieces in order, an array for each name. Raises ``SessionError`` as a run does."""
        parts: dict[str, list[np.ndarray]] = {}
        for _, piece in sorted(self.pieces.items()):
            for name, array in piece.items():
                parts.setdefault(name, []).append(array)
        try:
            return {name: np.concatenate(some) for name, some in parts.items()}
        except ValueError as error:
            said = f"the outputs change their shape from run to run: {error}"
            raise SessionError(said) from error


@dataclass
class Spread:
    """One command on one cluster. ``folder`` has the models' files."""

    cluster: Cluster
    folder: Path
    kept: Kept
    progress: Progress
    _shards: Shards = field(init=False)
    _done: int = 0
    _resumed: int = 0
    _machines: set[str] = field(default_factory=set)
    _kinds: dict[Cell, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    _sent: dict[Cell, Sent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shards = Shards(self.cluster, self.progress.say)

    @property
    def use(self) -> ClusterUse:
        """How the work was spread so far."""
        return ClusterUse(
            self.cluster.asked,
            len(self.cluster.seen),
            tuple(sorted(self._machines)),
            self._done,
            self._resumed,
            self._shards.retried,
        )

    def goldens(
        self, cells: Sequence[Cell], file: Path, shown: Preprocessing | None, count: int
    ) -> dict[Cell, Ran]:
        """The outputs of cells for the first ``count`` goldens of a file; see ``run_goldens``."""
        found, recorded = {cell: Ran() for cell in cells}, Files.of(file)
        about = (recorded.key, count, shown.to_json() if shown else None)
        done = 0

        def shard(cell: Cell, start: int, rows: int) -> Shard:
            asked, sent = Asked(recorded, start, rows, count), self._of(cell)
            return Shard(
                f"{cell}, goldens from {start} on",
                (cell,),
                tasks.goldens,
                lambda _: (sent, asked, shown),
                range(start, start + rows),
                self._key("goldens", [sent], (*about, start, rows)),
            )

        def take(one: Shard, given: Sequence[Answer]) -> list[Shard]:
            nonlocal done
            (cell,), (answer,) = one.group, given
            found[cell].take(one.rows.start, answer)
            if answer.loaded is None:
                return []
            asked = Asked(recorded, one.rows.start, len(one.rows), count)
            rows = asked.rows(batch_of(answer.loaded, cell.batch))
            done += len(rows)
            self.progress.step(done, len(cells) * count + 1, str(cell))
            if rows.start:
                return []
            # Only now its batch is known, of which the others are whole numbers, too.
            return [shard(cell, start, len(rows)) for start in range(rows.stop, count, len(rows))]

        self._run([shard(cell, 0, GOLDENS) for cell in cells], take)
        return found

    def look(self, cells: Sequence[Cell]) -> dict[Cell, Ran]:
        """What cells are once they are loaded."""
        found = {cell: Ran() for cell in cells}

        def shard(cell: Cell) -> Shard:
            sent = self._of(cell)
            key = self._key("look", [sent], ())
            return Shard(f"starting {cell}", (cell,), tasks.look, lambda _: (sent,), key=key)

        def take(one: Shard, given: Sequence[Answer]) -> None:
            self.progress.step(0, 1, one.name)
            found[one.group[0]].take(0, given[0])

        self._run(list(map(shard, cells)), take)
        return found

    def places(
        self,
        seen: Mapping[Cell, Ran],
        data: Dataset,
        shown: Preprocessing,
        classes: int,
        decoders: int,
    ) -> dict[Cell, Ran]:
        """Where the true classes of images come for each cell: "places", int32 ``[N]``.

        ``seen`` are the cells with what is known of them. Raises ``ImageError``.
        """
        found = {cell: Ran(one.loaded, one.host, one.error) for cell, one in seen.items()}
        shards = [
            one
            for first in range(0, len(found), MOST_TOGETHER)
            for one in self._cut(
                list(found)[first : first + MOST_TOGETHER], found, data, shown, classes, decoders
            )
        ]
        total, done = sum(len(one.rows) for one in shards) + 1, 0

        def take(one: Shard, given: Sequence[Answer]) -> None:
            nonlocal done
            for cell, answer in zip(one.group, given, strict=True):
                found[cell].take(one.rows.start, answer)
            done += len(one.rows)
            self.progress.step(done, total, f"{len(one.group)} cells, {done} images")

        self._run(shards, take)
        return found

    def _cut(
        self,
        cells: Sequence[Cell],
        found: Mapping[Cell, Ran],
        data: Dataset,
        shown: Preprocessing,
        classes: int,
        decoders: int,
    ) -> Iterator[Shard]:
        """The shards of all images, for those of the cells that are well."""
        group = tuple(cell for cell in cells if found[cell].error is None)
        sessions = [loaded for cell in group if (loaded := found[cell].loaded)]
        if not sessions:
            return
        size = shard_size(len(data), chunk_of(sessions))
        sent = [self._of(cell) for cell in group]
        about = (shown.to_json(), classes)
        for start in range(0, len(data), size):
            rows = range(start, min(start + size, len(data)))

            def arguments(way: str, rows: range = rows) -> tuple[Any, ...]:
                # What failed meanwhile isn't tried again.
                well = [None if found[one.cell].error else one for one in sent]
                return well, Part.of(data, rows, way), shown, classes, decoders

            name = f"images {rows.start} to {rows.stop - 1}"
            key = self._key("places", sent, (*about, images.stamps(data, rows)))
            yield Shard(name, group, tasks.places, arguments, rows, key)

    def _of(self, cell: Cell) -> Sent:
        """A cell with its files, whose digests are looked for once."""
        if cell not in self._sent:
            some = files_of(cell, self.folder / cell.file)
            self._sent[cell] = Sent(cell, Files.of(*map(self.folder.joinpath, some)))
        return self._sent[cell]

    def _key(self, task: str, sent: Sequence[Sent], about: tuple[Any, ...]) -> str:
        """Names a shard by what it is about."""
        cells = [(asdict(one.cell), one.files.digests) for one in sent]
        return digest(json.loads(json.dumps([task, cells, about], default=str, allow_nan=False)))

    def _run(
        self,
        shards: Sequence[Shard],
        take: Callable[[Shard, Sequence[Answer]], Sequence[Shard] | None],
    ) -> None:
        """Take answers to shards from an interrupted run, and have the others done."""

        def resumed(some: Sequence[Shard]) -> Iterator[Shard]:
            """Those that aren't finished."""
            for shard in some:
                answers = self.kept.load(shard.key)
                if answers is None or len(answers) != len(shard.group):
                    yield shard
                    continue
                self._resumed += 1
                self._note(shard, answers)
                yield from resumed(take(shard, answers) or ())

        def done(shard: Shard, answers: Sequence[Answer]) -> list[Shard]:
            self._note(shard, answers)
            self.kept.keep(shard.key, answers)
            return list(resumed(take(shard, answers) or ()))

        self._shards.run(list(resumed(shards)), done)
        self.progress.step(1, 1, "")

    def _note(self, shard: Shard, answers: Sequence[Answer]) -> None:
        """Count a shard. Raises ``ClusterError`` if another machine computes a cell otherwise."""
        self._done += 1
        for cell, answer in zip(shard.group, answers, strict=True):
            if answer.loaded is None:
                continue
            where, kind = str(answer.host.get("name")), answer.kind
            self._machines.add(where)
            first, expected = self._kinds.setdefault(cell, (where, kind))
            if kind != expected:
                parts = (
                    f"{name} {kind[name]}, on {first} {expected[name]}"
                    for name in kind
                    if kind[name] != expected[name]
                )
                raise ClusterError(f"{cell}: on {where} {'; '.join(parts)}")


def shard_size(count: int, chunk: int) -> int:
    """Images of a shard, going by how many there are: a multiple of what is decoded at a time."""
    wanted = min(max(FEWEST, count // SHARDS), MOST)
    return chunk * -(-wanted // chunk)


@contextmanager
def spread(
    asked: str | None,
    command: str,
    folder: Path,
    cells: Sequence[Cell],
    about: Mapping[str, Any],
    progress: Progress,
) -> Iterator[Spread | None]:
    """A command on the cluster that was ``asked`` for, if one was, in a locked workspace.

    ``about`` is what the results depend on besides the cells. Raises as ``cluster.opened``, and
    ``WorkspaceError`` where finished shards can't be kept.
    """
    if asked is None:
        yield None
        return
    with cluster.opened(asked, Needs.of(cells), progress) as found:
        key = digest({"environment": found.environment, **about})
        kept = Kept.of(folder, command, key)
        if there := len(kept):
            progress.say(
                f"an interrupted run has finished {there} shards of this: it goes on there"
            )
        yield Spread(found, folder, kept, progress)
        found.release()
