"""Turns: all cells stay alive side by side and run for a slice each, in cycles of random order.

What the machine does meanwhile meets all cells alike, so that their ratios hold where no time does.
What is left is the luck of a process (where its threads and its memory came to lie): everything
is started anew in each of several generations, and intervals are taken over those. One cell runs
twice, as its own control: how far that pair is from one is what this machine can tell just now.

The parent sleeps while a slice runs, and whoever has no turn is stopped or at rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from time import monotonic

import numpy as np

from ...runners import registry
from ...runners.base import RunnerError, SessionError
from ...runners.targets import Target
from ...runners.timing.plan import COLD, SERVER
from ...runners.workers.launch import Worker
from ..cells.session import (
    load_cell,
    run_goldens,
    shares_fate,
    start_worker,
    status_of,
)
from ..judging.gates import mismatch
from ..numerics import metrics, ratios
from ..numerics.ratios import Ratio
from ..progress import Progress
from ..storage.goldens import valid_rows
from .visits import CONTROL, METER, Entry, Schedule, Visits, figure

CHECKED_GOLDENS = 16

# A cell that takes so much longer to set up than it is timed has every second generation only.
MOST_SETTING_UP = 4.0
# Seconds that a quick bench gives a cell to set up in more than one generation.
QUICK_SETTING_UP = 3.0
# More cells than this in a cycle, or less memory than the largest of them had once more and a half,
# and the others have turns of their own, with the same reference.
MOST_IN_TURNS = 16
SPARE_MEMORY = 1.5
# Workers that are started at once.
SIDE_BY_SIDE = 2


class Turns:
    """Measures entries side by side.

    On each target the first one that runs is the reference, which is in the turns of all others
    and is run twice where there are others. With ``meter`` the meter takes turns with them, too,
    and with ``cached`` every second generation loads from the runner's cache first.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        schedule: Schedule,
        progress: Progress,
        *,
        meter: bool = False,
        cached: bool = False,
    ) -> None:
        self._cached = cached
        self._schedule, self._progress = schedule, progress
        self._groups: dict[Target, list[list[Entry]]] = {}
        for target in dict.fromkeys(entry.cell.target for entry in entries):
            group = [entry for entry in entries if entry.cell.target == target]
            more = [replace(group[0], role=METER)] if meter else []
            self._groups[target] = [[*group, *more]]
        self.visits = {
            entry: Visits(schedule.scenario)
            for groups in self._groups.values()
            for entry in groups[0]
        }
        self._references: dict[Target, Entry] = {}
        self._started = monotonic()
        self._state = ""
        self._met: dict[Entry, list[int]] = {}

    def run(self, enough: Callable[[], bool] = lambda: False, at_least: int = 1) -> None:
        """All generations, or fewer once ``enough``, which must not look at what was measured."""
        total = self._schedule.generations
        for number in range(total):
            self._state = self._so_far(number)
            self._progress.step(number, total, self._state)
            for target in self._groups:
                self._target(number, target)
            if number + 1 >= at_least and enough():
                break
        self._progress.step(1, 1, "")

    def logs(self, new: Entry, old: Entry) -> list[float]:
        """The log ratios of new/old of the generations that both were in; see ``ratios``."""
        of_new, of_old = (self.visits[one].cycles for one in (new, old))
        found = []
        for number in range(self._schedule.generations):
            both = [turn for turn in of_new if turn[0] == number and turn in of_old]
            if both:
                cycles = [np.concatenate([of[turn] for turn in both]) for of in (of_new, of_old)]
                found.append(ratios.of_cycles(cycles[0], cycles[1]))
            elif (by_reference := self._by_reference(number, new, old)) is not None:
                found.append(by_reference)
        return found

    def ratio(self, new: Entry, old: Entry) -> Ratio | None:
        """How the times for a run compare, as new/old, on one target.

        ``None`` where they never met. Never surer than the control pair there.
        """
        logs = self.logs(new, old) if new.cell.target == old.cell.target else []
        return ratios.over_generations(logs, self.least(new.cell.target)) if logs else None

    def least(self, target: Target) -> float:
        """Half the width that the control pair on a target asks of every interval there."""
        reference = self._references.get(target)
        control = reference and replace(reference, role=CONTROL)
        if reference is None or control not in self.visits:
            return 0.0
        return ratios.half_width_of(self.logs(control, reference))

    def meters(self, entry: Entry) -> list[float]:
        """The logs of an entry's time in runs of its target's meter, one for each generation."""
        for other in self._group(entry.cell.target):
            if other.role == METER and self.visits[other].error is None:
                return self.logs(entry, other)
        return []

    def _group(self, target: Target) -> list[Entry]:
        return [entry for entry in self.visits if entry.cell.target == target]

    def _by_reference(self, number: int, new: Entry, old: Entry) -> float | None:
        """By way of the cell that was in the turns of both."""
        reference = self._references[new.cell.target]
        parts = []
        for one in (new, old):
            of_one, of_it = (self.visits[entry].cycles for entry in (one, reference))
            turns = [turn for turn in of_one if turn[0] == number and turn in of_it]
            if not turns:
                return None
            parts.append(ratios.of_cycles(of_one[turns[0]], of_it[turns[0]]))
        return parts[0] - parts[1]

    def _so_far(self, number: int) -> str:
        """How wide the widest interval is so far, and what is left."""
        total = self._schedule.generations
        text = f"generation {number + 1}/{total}"
        if number < 1:
            return text
        left = (monotonic() - self._started) / number * (total - number)
        widest = 0.0
        for target in self._groups:
            first = self._references.get(target)
            others = [entry for entry in self._group(target) if entry.role != METER]
            found = [self.ratio(entry, first) for entry in others if first and entry != first]
            widths = [one.high / one.low - 1 for one in found if one and one.ci95]
            widest = max([widest, *widths])
        wide = f", widest interval {widest:.1%}" if widest else ""
        return f"{text}{wide}, {left:.0f} s left"

    def _target(self, number: int, target: Target) -> None:
        """One generation of a target; the first one finds out which cells fit into it together."""
        groups = self._groups[target]
        place = 0
        while place < len(groups):
            left = self._turns((number, place), groups[place])
            if left:
                fitted = [entry for entry in groups[place] if entry not in left]
                reference = self._references[target]
                shared = [
                    one for one in fitted if one in (reference, replace(reference, role=CONTROL))
                ]
                groups[place : place + 1] = [fitted, [*shared, *left]]
            place += 1

    def _turns(self, turn: tuple[int, int], entries: list[Entry]) -> list[Entry]:
        """The slices of a group; returns those of its entries that don't fit beside the others."""
        number, _ = turn
        shuffle = random.Random(f"{turn}")
        due = [entry for entry in entries if self._due(entry, number)]
        order = due if number == 0 else shuffle.sample(due, len(due))
        alive: dict[Entry, Worker] = {}
        waiting = list(order)
        with ExitStack() as stack:
            workers = self._start_all(order, stack) if number else {}
            while waiting:
                entry = waiting.pop(0)
                said = f"{self._state}: {entry.role or entry.cell}"
                self._progress.step(number, self._schedule.generations, said)
                free_mib = self._set_up(entry, turn, workers.get(entry), stack, alive)
                if number:
                    continue
                if entry in alive and not entry.role and self._has_control(entry):
                    twin = replace(entry, role=CONTROL)
                    self.visits[twin] = Visits(self._schedule.scenario)
                    entries.insert(entries.index(entry) + 1, twin)
                    waiting.insert(0, twin)
                if self._full(free_mib, alive):
                    break
            self._cycles(alive, shuffle)
            for entry in list(alive):
                self._guarded(entry, alive, lambda entry=entry: self._finish(entry, alive, turn))
        return [entry for entry in waiting if self.visits[entry].error is None]

    def _cycles(self, alive: dict[Entry, Worker], shuffle: random.Random) -> None:
        """Slices, in cycles of random order.

        A slow cell has a turn in every second cycle, every fourth and so on: so it is timed for
        about as long as the others, and any two meet in the turns of the slower one.
        """
        every = dict.fromkeys(alive, 1)
        for cycle in range(self._schedule.cycles):
            due = [entry for entry in alive if cycle % every[entry] == 0]
            for entry in shuffle.sample(due, len(due)):
                began = monotonic()
                self._guarded(entry, alive, alive[entry].slice)
                if cycle == 0:
                    every[entry] = self._schedule.period(monotonic() - began)
                self._met.setdefault(entry, []).append(cycle)

    def _has_control(self, entry: Entry) -> bool:
        """Whether an entry that runs is its target's reference from now on, and is to run twice."""
        target = entry.cell.target
        if target in self._references:
            return False
        self._references[target] = entry
        others = [one for one in self._group(target) if one.role != METER and one != entry]
        return self._schedule.scenario != SERVER and bool(others)

    def _due(self, entry: Entry, number: int) -> bool:
        visits = self.visits[entry]
        most = MOST_SETTING_UP * max(0.25, self._schedule.seconds)
        costly = visits.set_up_seconds > most
        generations = self._schedule.generations
        if generations < ratios.FEWEST:  # too few for any verdict: it is seen to run, no more
            costly = visits.set_up_seconds > max(most, QUICK_SETTING_UP)
            return visits.error is None and not (costly and number)
        enough = generations >= 2 * ratios.FEWEST - 1  # also where half are left
        return visits.error is None and not (costly and enough and number % 2)

    def _full(self, free_mib: float | None, alive: Mapping[Entry, Worker]) -> bool:
        """Whether nothing more fits beside those that are alive (a pair does in any case)."""
        if free_mib is None or len(alive) < 3:
            return False
        largest = max(self.visits[one].resident_mib for one in alive)
        return len(alive) >= MOST_IN_TURNS or free_mib < SPARE_MEMORY * largest

    def _start_all(self, order: Sequence[Entry], stack: ExitStack) -> dict[Entry, Worker]:
        """Workers that have imported what they need: side by side, as nothing is timed here."""

        def start(entry: Entry) -> Worker | RunnerError:
            try:
                worker = start_worker(entry.cell)
            except RunnerError as error:
                return error
            if entry.role != METER:
                with suppress(RunnerError):  # which loading will meet as well
                    worker.describe(entry.cell.runner)
            return worker

        started: dict[Entry, Worker] = {}
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for entry, worker in zip(order, pool.map(start, order), strict=True):
                if isinstance(worker, RunnerError):
                    self._lost(entry, worker)
                else:
                    stack.callback(worker.close)
                    started[entry] = worker
        return started

    def _set_up(
        self,
        entry: Entry,
        turn: tuple[int, int],
        worker: Worker | None,
        stack: ExitStack,
        alive: dict[Entry, Worker],
    ) -> float | None:
        """Load an entry, check it and warm it up; returns the MiB that are free then."""
        visits = self.visits[entry]
        if visits.error is not None:
            return None
        began = monotonic()
        try:
            if worker is None:
                worker = start_worker(entry.cell)
                stack.callback(worker.close)
            if entry.role == METER:
                cores = int(worker.hello["host"]["physical_cores"])
                visits.about = worker.meter(entry.cell.threads or cores)
                feeds: Mapping[str, np.ndarray] = {}
            else:
                if visits.from_cache:
                    worker = self._from_cache(entry, worker, stack)
                feeds = self._loaded(entry, turn, worker)
            free_mib = worker.warm_up(feeds, self._schedule.plan(turn[0]))
        except RunnerError as error:
            self._lost(entry, error)
            return None
        alive[entry] = worker
        visits.set_up_seconds = max(visits.set_up_seconds, monotonic() - began)
        return free_mib

    def _loaded(
        self, entry: Entry, turn: tuple[int, int], worker: Worker
    ) -> Mapping[str, np.ndarray]:
        """Load a cell and check its outputs; returns what it is timed on."""
        cell, source, visits = entry.cell, entry.source, self.visits[entry]
        opened = load_cell(worker, cell, entry.model)
        feeds, valid = source.batch(opened)
        first = worker.run(feeds)
        # Later generations are checked by what their first run gave: is it still the same model?
        count, outputs = valid, {}
        for name, array in first.arrays.items():
            outputs[name] = valid_rows(array, opened.batch, valid)
        if turn[0] == 0:
            count = CHECKED_GOLDENS
            outputs = run_goldens(opened, source.goldens, source.preprocessing, count)
        expected = {name: rows[:count] for name, rows in source.goldens.fp32.items()}
        if problem := mismatch(outputs, expected):
            raise SessionError(problem)
        visits.sqnr_db.append(
            min(metrics.sqnr_db(outputs[name], expected[name]) for name in expected)
        )
        visits.opened.append(opened)
        visits.resident_mib = first.peak_rss_mib
        if not visits.from_cache:  # else that process has loaded it before
            visits.load_ms.append(opened.loaded.load_ms)
            visits.first_ms.append(first.elapsed_ms)
        return feeds

    def _from_cache(self, entry: Entry, worker: Worker, stack: ExitStack) -> Worker:
        """Load once with the cache, and let that go; the worker, or another one after a crash."""
        visits = self.visits[entry]
        try:
            loaded = load_cell(worker, entry.cell, entry.model, visits.cache).loaded
            visits.cached_ms += [loaded.load_ms] if loaded.from_cache else []
        except RunnerError as error:
            visits.uncached, visits.cache = error, {}
            worker.close()
            worker = start_worker(entry.cell)
            stack.callback(worker.close)
        return worker

    def _make_cache(self, entry: Entry, worker: Worker) -> None:
        """After the first generation, whose worker isn't needed any more."""
        visits = self.visits[entry]
        try:
            load_cell(worker, entry.cell, entry.model, {})
            visits.cache = worker.cache()
        except RunnerError as error:
            visits.uncached = error

    def _finish(self, entry: Entry, alive: Mapping[Entry, Worker], turn: tuple[int, int]) -> None:
        visits = self.visits[entry]
        measurement, peak_rss_mib = alive[entry].finish()
        if not visits.from_cache:
            # What a cold run sweeps the caches with is none of the model's.
            cold = self._schedule.scenario == COLD
            visits.peak_rss_mib.append(visits.resident_mib if cold else peak_rss_mib)
        builds = registry.builds(entry.cell.runner)  # its engine is kept in any case
        if self._cached and not entry.role and not visits.measurements and not builds:
            self._make_cache(entry, alive[entry])
        visits.measurements.append(measurement)
        parts = measurement.by_slice()
        visits.cycles[turn] = np.full(self._schedule.cycles, np.nan)
        visits.cycles[turn][self._met.pop(entry)] = [
            figure(part, self._schedule.scenario) for part in parts
        ]

    def _guarded(
        self, entry: Entry, alive: dict[Entry, Worker], operation: Callable[[], None]
    ) -> None:
        try:
            operation()
        except RunnerError as error:
            del alive[entry]
            self._lost(entry, error)

    def _lost(self, entry: Entry, error: RunnerError) -> None:
        """Note why an entry has no more turns; what others miss for the same reason isn't tried."""
        if self.visits[entry].error is not None:
            return
        self.visits[entry].error = error
        if entry.role:
            return
        for other, visits in self.visits.items():
            if other.role != METER and shares_fate(other.cell, entry.cell, error):
                visits.error = visits.error or error
        if status_of(error) == "failed":
            self._progress.say(f"{entry.cell}: failed: {error}")
