"""What a worker of a cluster does with a shard. Called there, by reference: see ``shards``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ....runners.base import RunnerError
from ....runners.images import Preprocessing
from ...storage.goldens import Goldens
from ..scoring import chunk_of, score
from ..session import Cell, OpenCell, run_goldens
from . import files
from .answers import Answer
from .files import Files
from .images import Part
from .sessions import KEPT

PLACES = "places"


@dataclass(frozen=True)
class Sent:
    """A cell with the files that it loads."""

    cell: Cell
    files: Files


@dataclass(frozen=True)
class Asked:
    """Goldens from ``start`` on: ``count``, rounded up to a whole number of batches, or what is
    left of the first ``most``.
    """

    file: Files
    start: int
    count: int
    most: int

    def rows(self, batch: int) -> range:
        """Which ones these are for a model with such a batch."""
        stop = self.start + -(-self.count // batch) * batch
        return range(self.start, min(stop, self.most))


def look(sent: Sent) -> list[Answer]:
    """What a cell is once it is loaded."""
    model = files.place(sent.files)
    try:
        with KEPT.open(sent.cell, model, sent.files.key) as opened:
            return [Answer(opened.loaded, opened.worker.hello["host"])]
    except RunnerError as error:
        return [Answer(error=error)]


def goldens(sent: Sent, asked: Asked, shown: Preprocessing | None) -> list[Answer]:
    """The cell's outputs for some goldens, by name."""
    model = files.place(sent.files)
    recorded = _goldens(files.place(asked.file), asked.file.key)
    try:
        with KEPT.open(sent.cell, model, sent.files.key) as opened:
            rows = asked.rows(opened.batch)
            outputs = run_goldens(opened, recorded.part(rows), shown)
            return [Answer(opened.loaded, opened.worker.hello["host"], outputs)]
    except RunnerError as error:
        return [Answer(error=error)]


def places(
    some: Sequence[Sent | None], part: Part, shown: Preprocessing, classes: int, decoders: int
) -> list[Answer]:
    """Where the true classes of images come, "places" int32 ``[n]``, for each cell there is.

    The images are decoded once for all of them. Raises ``ImageError``.
    """
    models = [one and files.place(one.files) for one in some]
    given = [Answer()] * len(some)
    with ExitStack() as stack:
        active: dict[int, tuple[OpenCell, list[np.ndarray]]] = {}
        for place, (one, model) in enumerate(zip(some, models, strict=True)):
            if one is None or model is None:
                continue
            try:
                opened = stack.enter_context(KEPT.open(one.cell, model, one.files.key))
                active[place] = opened, []
            except RunnerError as error:
                given[place] = Answer(error=error)
        data = stack.enter_context(part.dataset())
        size = chunk_of([opened.loaded for opened, _ in active.values()])
        for tensor, labels in data.tensors(shown, size, decoders) if active else ():
            for place, (opened, found) in list(active.items()):
                try:
                    found.append(score(opened, tensor, labels, classes))
                except RunnerError as error:
                    given[place] = Answer(error=error)
                    KEPT.spoil(opened)
                    del active[place]
        for place, (opened, found) in active.items():
            arrays = {PLACES: np.concatenate(found)}
            given[place] = Answer(opened.loaded, opened.worker.hello["host"], arrays)
    return given


def release() -> None:
    """End the sessions that nobody uses."""
    KEPT.close()


@lru_cache(maxsize=2)
def _goldens(path: Path, _key: str) -> Goldens:
    return Goldens.load(path)
