"""What takes turns, how often and how long, and what came back from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...runners.base import RunnerError
from ...runners.images import Preprocessing
from ...runners.timing.measure import Measurement
from ...runners.timing.plan import COLD, OFFLINE, SERVER, SINGLE_STREAM, Plan
from ..cells.session import Cell, OpenCell
from ..settings.speed import GENERATION_SECONDS, GENERATIONS
from ..storage.goldens import FILE, Goldens, preprocessing_of
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace

CONTROL, METER = "control", "meter"

QUICK_GENERATIONS, FEWEST_CYCLES = 2, 3
SLICE_SECONDS = {SINGLE_STREAM: 0.05, OFFLINE: 0.2, COLD: 0.2}
SLICE_RUNS = {SINGLE_STREAM: 5, OFFLINE: 5, COLD: 3}
# Random arrivals make a queue, and a queue needs time: the server has one long turn.
SERVER_RUNS = 16
# The share of a slice's runs that were fastest by which cells are compared: see ``figure``.
UNDISTURBED = 0.1
WARM_UP_SECONDS = 0.06
QUICK_SECONDS = 0.15


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

    def batch(self, opened: OpenCell) -> tuple[Mapping[str, np.ndarray], int]:
        """What a cell is timed on: a batch of goldens, and how many of its rows are any."""
        name = opened.loaded.inputs[0].name
        feeds, _, valid = next(self.goldens.batches(self.preprocessing, name, opened.batch))
        return feeds, valid


@dataclass(frozen=True)
class Entry:
    """A cell that has turns, with where its files come from.

    ``role`` is "control" for its twin, or "meter" for the fixed work beside it.
    """

    cell: Cell
    source: Source
    role: str = ""

    @property
    def model(self) -> Path:
        """The file that its cell takes."""
        return self.source.workspace.folder / self.cell.file


@dataclass(frozen=True)
class Schedule:
    """How often and for how long each cell is timed: ``seconds`` in each of the generations."""

    generations: int = GENERATIONS
    seconds: float = GENERATION_SECONDS
    scenario: str = SINGLE_STREAM
    rate: float = 0.0

    def quick(self) -> Self:
        """The same as a smoke test."""
        return replace(self, generations=QUICK_GENERATIONS, seconds=QUICK_SECONDS)

    @property
    def cycles(self) -> int:
        """Turns of each cell in a generation."""
        if self.scenario == SERVER:
            return 1
        return max(FEWEST_CYCLES, round(self.seconds / SLICE_SECONDS[self.scenario]))

    def period(self, seconds: float) -> int:
        """In every how many cycles a cell has a turn whose slice takes this long."""
        found = 1
        while self.cycles // (2 * found) >= FEWEST_CYCLES and seconds > 2 * found * (
            self.seconds / self.cycles
        ):
            found *= 2
        return found

    def plan(self, seed: int) -> Plan:
        """What a worker is told of its slices."""
        single = self.scenario == SERVER
        seconds = self.seconds if single else self.seconds / self.cycles
        return Plan(
            seconds=seconds,
            min_samples=SERVER_RUNS if single else SLICE_RUNS[self.scenario],
            max_seconds=max(30.0, 5 * seconds),
            window_seconds=WARM_UP_SECONDS / 8,
            warm_up_seconds=WARM_UP_SECONDS,
            scenario=self.scenario,
            rate=self.rate,
            seed=seed,
        )


@dataclass
class Visits:
    """What came back from a cell's generations so far; ``error`` ends them.

    ``cycles`` are the figures of each slice that ratios are made of (see ``figure``), by turn: the
    generation, and which of the groups that could be alive together it was in. The reference is in
    all of them. ``scenario`` is that of its measurements. ``cache`` is what the
    runner keeps to load sooner, ``uncached`` why that wasn't tried to its end.
    """

    scenario: str = SINGLE_STREAM
    cycles: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    opened: list[OpenCell] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    cached_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)
    sqnr_db: list[float] = field(default_factory=list)
    set_up_seconds: float = 0.0
    resident_mib: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, bytes] = field(default_factory=dict)
    uncached: RunnerError | None = None
    error: RunnerError | None = None

    @property
    def from_cache(self) -> bool:
        """Whether the next generation loads from the runner's cache first, and counts for that."""
        return bool(self.cache) and len(self.measurements) % 2 == 1

    def figures(self) -> list[float]:
        """What each generation says: the median of its slices' typical times, in ms for a run."""
        slices = self._joined(
            np.array([typical(part, self.scenario) for part in found.by_slice()])
            for found in self.measurements
        )
        return [float(np.median(found)) for found in slices]

    def samples(self) -> list[np.ndarray]:
        """The samples of each generation, int64 ns."""
        return self._joined(found.samples for found in self.measurements)

    def _joined(self, parts: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Of each generation what its turns gave: the reference may have had several."""
        found: dict[int, list[np.ndarray]] = {}
        for (number, _), part in zip(self.cycles, parts, strict=True):
            found.setdefault(number, []).append(part)
        return [np.concatenate(parts) for parts in found.values()]


def typical(samples: np.ndarray, scenario: str) -> float:
    """Ms for a run in a slice: the samples' median; offline, where they add up, their mean."""
    return float((np.mean if scenario == OFFLINE else np.median)(samples)) / 1e6


def figure(samples: np.ndarray, scenario: str) -> float:
    """What a slice says of a cell beside another, in ms for a run.

    Of single runs that is their lower decile, what a run takes that nothing came between: who else
    was at work meets a longer run more often, and medians with it. Else as ``typical``.
    """
    if scenario != SINGLE_STREAM:
        return typical(samples, scenario)
    return float(np.quantile(samples, UNDISTURBED)) / 1e6


def hosts(visits: Mapping[Entry, Visits]) -> dict[str, Mapping[str, object]]:
    """Facts about the machines that were measured on, by target."""
    return {
        entry.cell.target.name: found.opened[0].worker.hello["host"]
        for entry, found in visits.items()
        if found.opened
    }


def streams_in(visits: Visits) -> int:
    """How many runs a cell really has under way at once, as its session says."""
    return visits.opened[0].loaded.placement.streams
