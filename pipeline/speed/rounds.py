"""Rounds: every cell is visited once in each, in an order of its own, in a fresh worker.

A machine that slows down then does so for all cells. In each visit a new worker loads the model,
its outputs are compared with the goldens, it warms up, and only then is it timed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from ...runners.base import RunnerError, SessionError
from ...runners.images import Preprocessing
from ...runners.timing.measure import Measurement
from ...runners.timing.plan import OFFLINE, SINGLE_STREAM, Plan
from ..cells.session import Cell, OpenCell, open_cell, run_goldens, shares_fate, status_of
from ..judging.gates import mismatch
from ..numerics import metrics
from ..numerics.intervals import MIN_ROUNDS
from ..progress import Progress
from ..storage.goldens import FILE, Goldens, preprocessing_of
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace

CHECKED_GOLDENS = 16
MIN_SAMPLES = 16
QUICK_SECONDS = 0.2
WARM_UP_SECONDS = 1.0


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
    """A cell in the rounds, with where its files come from."""

    cell: Cell
    source: Source


@dataclass
class Visits:
    """What came back from a cell's rounds so far; ``error`` ends them."""

    measurements: list[Measurement] = field(default_factory=list)
    opened: list[OpenCell] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)
    sqnr_db: list[float] = field(default_factory=list)
    error: RunnerError | None = None

    def figures(self, scenario: str) -> list[float]:
        """What each round says: ms for a run, the median, or the mean where throughput counts."""
        return [figure(found.samples, scenario) for found in self.measurements]


def figure(samples: np.ndarray, scenario: str) -> float:
    """Ms for a run: the median of the samples; offline, where they add up, their mean."""
    return float((np.mean if scenario == OFFLINE else np.median)(samples)) / 1e6


def timing(
    seconds: float,
    scenario: str = SINGLE_STREAM,
    rate: float = 0.0,
    warm_up_seconds: float = WARM_UP_SECONDS,
) -> Plan:
    """How long each visit measures, and warms up at most if that is longer than its measuring."""
    return Plan(
        seconds=seconds,
        min_samples=MIN_SAMPLES,
        max_seconds=max(30.0, 5 * seconds),
        window_seconds=min(0.1, seconds / 4),
        warm_up_seconds=max(warm_up_seconds, 2 * seconds),
        scenario=scenario,
        rate=rate,
    )


class Rounds:
    """Measures groups of entries; those of a group one right after the other, to be paired."""

    def __init__(self, groups: Sequence[Sequence[Entry]], timing: Plan, progress: Progress) -> None:
        self._groups = groups
        self._timing = timing
        self._progress = progress
        self.visits = {entry: Visits() for group in groups for entry in group}

    def run(self, rounds: int, enough: Callable[[], bool], at_least: int = MIN_ROUNDS) -> None:
        """Visit every entry ``rounds`` times, or fewer once ``enough`` says so.

        It is asked after each round from the one ``at_least`` on.
        """
        for number in range(rounds):
            self._round(number, rounds)
            if number + 1 >= at_least and enough():
                break
        self._progress.step(1, 1, "")

    def _round(self, number: int, rounds: int) -> None:
        shuffle = random.Random(number)
        order = [
            entry
            for group in shuffle.sample(self._groups, len(self._groups))
            for entry in shuffle.sample(group, len(group))
        ]
        timing = replace(self._timing, seed=number)
        for position, entry in enumerate(order):
            step, steps = number * len(order) + position, rounds * len(order)
            self._progress.step(step, steps, f"round {number + 1}/{rounds}: {entry.cell}")
            visits = self.visits[entry]
            if visits.error is not None:
                continue
            try:
                _visit(entry, timing, visits)
            except RunnerError as error:
                visits.error = error
                self._same_everywhere(entry.cell, error)
                if status_of(error) == "failed":
                    self._progress.say(f"{entry.cell}: failed: {error}")

    def _same_everywhere(self, cell: Cell, error: RunnerError) -> None:
        """What is missing for one cell and for others, too, is tried once."""
        for entry, visits in self.visits.items():
            if shares_fate(entry.cell, cell, error):
                visits.error = visits.error or error


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


def _visit(entry: Entry, timing: Plan, visits: Visits) -> None:
    """One round of one cell, in a worker of its own."""
    cell, source = entry.cell, entry.source
    with open_cell(cell, source.workspace.folder / cell.file) as opened:
        name = opened.loaded.inputs[0].name
        feeds, _, _ = next(source.goldens.batches(source.preprocessing, name, opened.batch))
        first = opened.worker.run(feeds)
        outputs = run_goldens(opened, source.goldens, source.preprocessing, CHECKED_GOLDENS)
        expected = {name: rows[:CHECKED_GOLDENS] for name, rows in source.goldens.fp32.items()}
        if problem := mismatch(outputs, expected):
            raise SessionError(problem)
        sqnr_db = min(metrics.sqnr_db(outputs[name], expected[name]) for name in expected)
        measurement, peak_rss_mib = opened.worker.measure(feeds, timing)
    visits.measurements.append(measurement)
    visits.opened.append(opened)
    visits.load_ms.append(opened.loaded.load_ms)
    visits.first_ms.append(first.elapsed_ms)
    visits.peak_rss_mib.append(peak_rss_mib)
    visits.sqnr_db.append(sqnr_db)
