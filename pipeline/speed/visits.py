"""What takes turns, and what came back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ...runners.base import RunnerError
from ...runners.images import Preprocessing
from ...runners.timing.measure import Measurement
from ...runners.timing.plan import OFFLINE
from ..cells.session import Cell, OpenCell, open_cell
from ..storage.goldens import FILE, Goldens, preprocessing_of
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace

CONTROL, METER = "control", "meter"


@dataclass(frozen=True, eq=False)
class Source:
    """The workspace that cells are measured from: its files, and what goes into the models."""

    workspace: Workspace
    manifest: Manifest
    goldens: Goldens
    preprocessing: Preprocessing | None

    @classmethod
    def of(cls, workspace: Workspace, manifest: Manifest) -> Self:
        """Read what the measuring needs from a locked and verified workspace."""
        goldens = Goldens.load(workspace.folder / FILE)
        return cls(workspace, manifest, goldens, preprocessing_of(manifest))


@dataclass(frozen=True)
class Entry:
    """A cell that has turns, with where its files come from.

    ``role`` is "control" for its twin, or "meter" for the fixed work beside it.
    """

    cell: Cell
    source: Source
    role: str = ""


@dataclass
class Visits:
    """What came back from a cell's generations so far; ``error`` ends them.

    ``cycles`` are the ms for a run in each slice, by turn: the generation, and which of the groups
    that could be alive together it was in. The reference is in all of them.
    """

    cycles: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    opened: list[OpenCell] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)
    sqnr_db: list[float] = field(default_factory=list)
    set_up_seconds: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)
    error: RunnerError | None = None

    def figures(self) -> list[float]:
        """What each generation says: the median of its slices, in ms for a run."""
        return [float(np.nanmedian(slices)) for slices in self.cycles.values()]


def figure(samples: np.ndarray, scenario: str) -> float:
    """Ms for a run: the median of the samples; offline, where they add up, their mean."""
    return float((np.mean if scenario == OFFLINE else np.median)(samples)) / 1e6


def hosts(visits: Mapping[Entry, Visits]) -> dict[str, Mapping[str, object]]:
    """Facts about the machines that were measured on, by target."""
    return {
        entry.cell.target.name: found.opened[0].worker.hello["host"]
        for entry, found in visits.items()
        if found.opened
    }


def cached_load_ms(entry: Entry) -> float | None:
    """Loading in a fresh worker with the cache that a first load made; ``None`` without one.

    Raises ``RunnerError``.
    """
    cell, model = entry.cell, entry.source.workspace.folder / entry.cell.file
    with open_cell(cell, model, cache={}) as first:
        cache = first.worker.cache()
    if not cache:
        return None
    with open_cell(cell, model, cache=cache) as second:
        return second.loaded.load_ms if second.loaded.from_cache else None
