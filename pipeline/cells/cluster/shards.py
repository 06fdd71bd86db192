"""Shards on their way: handed to workers, answered in any order, tried again, counted once."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ....runners.base import WorkerCrashed
from ...errors import ClusterError, exit_code
from . import environment, images
from .answers import Answer
from .environment import Environment, Needs
from .files import MissingFiles
from .images import ElsewhereError

# A shard that was with so many workers when they were lost is their end, and not its victim.
MOST_LOST = 3
# Shards that a worker has beside those that it is at, so that it never waits.
AHEAD = 1
LOOK_SECONDS = 0.5
# How long workers may be missing altogether.
PATIENCE_SECONDS = 60.0
WAYS = (images.SAME_MACHINE, images.SAME_FILES, images.SENT)


@dataclass(frozen=True, eq=False)
class Shard:
    """What ``task`` is to do with ``arguments``, told how images get there (one of ``WAYS``).

    ``name`` is for people. Shards of the same ``group`` need the same sessions: it is the cells
    whose ``Answer``s come back, if that is what comes. ``rows`` are the images or goldens that it
    is about. ``key`` names it in a later run, which has none of those without.
    """

    name: str
    group: tuple[Any, ...]
    task: Callable[..., Any]
    arguments: Callable[[str], tuple[Any, ...]]
    rows: range = range(0)
    key: str = ""


class OtherEnvironment(Exception):
    """A worker's environment differs. Its arguments are the address and the difference."""


class Link(Protocol):
    """What shards need of Dask: see ``cluster.Cluster``, which is one."""

    @property
    def asked(self) -> str:
        """The address as the user gave it."""
        ...

    def workers(self) -> Mapping[str, int]:
        """How many shards each worker does at a time, by its address."""
        ...

    def submit(self, worker: str, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Have a worker do something, by way of ``perform``; a future of Dask's."""
        ...

    def bring(self, missing: MissingFiles) -> None:
        """Send a worker files that it lacks."""
        ...

    def revive(self) -> None:
        """Start workers in place of lost ones, where that is for this side to do."""
        ...


def perform(
    here: Environment, needs: Needs, task: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """On a worker: do a shard, if the environment is that of whoever asks.

    A worker that joins later was never looked at before.
    """
    from .member import here as worker

    if found := environment.difference(environment.describe(needs), here):
        raise OtherEnvironment(worker().address, found)
    return task(*arguments)


@dataclass
class Shards:
    """Does shards on a cluster. ``retried`` counts those that were tried again."""

    link: Link
    say: Callable[[str], None]
    way: str = images.SAME_MACHINE
    retried: int = 0
    _lost: dict[Shard, int] = field(default_factory=dict)
    _running: dict[Any, tuple[Shard, str, str]] = field(default_factory=dict)
    _waiting: list[Shard] = field(default_factory=list)
    _had: dict[str, object] = field(default_factory=dict)

    def run(
        self,
        shards: Sequence[Shard],
        done: Callable[[Shard, Any], Sequence[Shard] | None],
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """Do all of them; ``done`` is told each answer once, as it comes, and may add shards.

        Once ``until`` says so no more are begun. Raises what a shard raises, and ``ClusterError``
        for workers that are lost, gone, or different.
        """
        self._waiting = list(shards)
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        seen = time.monotonic()
        try:
            while self._running or (self._waiting and not until()):
                workers = self.link.workers()
                if workers:
                    seen = time.monotonic()
                elif time.monotonic() > seen + PATIENCE_SECONDS:
                    raise ClusterError(
                        f"{self.link.asked}: no worker for {PATIENCE_SECONDS:.0f} s; finished "
                        "shards are kept: run the command again when there are some"
                    )
                self._give_up(workers)
                if not until():
                    self._hand_out(workers, answers)
                for future in _arrived(answers):
                    if future in self._running:  # else it came too late, and another one does it
                        shard, _, way = self._running.pop(future)
                        self._take(shard, way, future, done)
        finally:
            for future in self._running:
                future.cancel()
            self._running.clear()

    def _hand_out(self, workers: Mapping[str, int], answers: queue.SimpleQueue[Any]) -> None:
        """Keep every worker busy with one shard more than it does at a time."""
        busy = [worker for _, worker, _ in self._running.values()]
        for ahead in range(max(workers.values(), default=0) + AHEAD):
            for worker, threads in workers.items():
                if self._waiting and ahead < threads + AHEAD and busy.count(worker) <= ahead:
                    shard = self._choose(worker)
                    future = self.link.submit(worker, shard.task, shard.arguments(self.way))
                    self._running[future] = shard, worker, self.way
                    busy.append(worker)
                    future.add_done_callback(answers.put)

    def _choose(self, worker: str) -> Shard:
        """The first shard whose sessions the worker has, or whose sessions nobody has, or any."""
        groups = [shard.group for shard in self._waiting]
        taken = set(self._had.values())
        fits = [group for group in groups if group == self._had.get(worker)]
        fits = fits or [group for group in groups if group not in taken] or groups
        self._had[worker] = fits[0]
        return self._waiting.pop(groups.index(fits[0]))

    def _give_up(self, workers: Mapping[str, int]) -> None:
        """Take back what lost workers had."""
        gone = [one for one, (_, worker, _) in self._running.items() if worker not in workers]
        if gone:
            lost = {self._running[one][1] for one in gone}
            self.say(f"warning: {_listed(lost)} lost: {_count(len(gone))} tried elsewhere")
        for future in gone:
            shard, worker, _ = self._running.pop(future)
            future.cancel()
            self._had.pop(worker, None)
            self._again(shard, worker)
        self.link.revive()

    def _again(self, shard: Shard, worker: str) -> None:
        self.retried += 1
        self._lost[shard] = self._lost.get(shard, 0) + 1
        if self._lost[shard] >= MOST_LOST:
            raise ClusterError(
                f"{shard.name}: {MOST_LOST} workers were lost that had this shard, the last one "
                f"{worker}: look for what ends them (memory?); finished shards are kept"
            )
        self._waiting.insert(0, shard)

    def _take(
        self,
        shard: Shard,
        way: str,
        future: Any,
        done: Callable[[Shard, Any], Sequence[Shard] | None],
    ) -> None:
        if future.status == "finished":
            answer = future.result()
            future.release()
            if _crashed(answer) and shard not in self._lost:
                # A killed session may be the machine's fault: it is tried once more.
                self.retried += 1
                self._lost[shard] = 1
                self._waiting.insert(0, shard)
                return
            self._waiting += done(shard, answer) or ()
            return
        error = future.exception() if future.status == "error" else None
        future.release()
        if error is None or type(error).__name__ == "KilledWorker":
            self._again(shard, "its worker")
        elif isinstance(error, MissingFiles):
            self.link.bring(error)
            self._waiting.insert(0, shard)
        elif isinstance(error, ElsewhereError):
            if way == self.way:  # else another shard has found that out before
                self.way = WAYS[WAYS.index(way) + 1]
            self._waiting.insert(0, shard)
        else:
            raise refusal(error)


def refusal(error: BaseException) -> BaseException:
    """What the command is to end with for what a worker raised."""
    if isinstance(error, OtherEnvironment):
        worker, found = error.args
        return ClusterError(f"worker {worker}: {found}; install the same there")
    if exit_code(error) is None:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return ClusterError(f"a worker of the cluster failed: {text}")
    return error


def _arrived(answers: queue.SimpleQueue[Any]) -> list[Any]:
    """The futures that are done, after waiting a moment for the first one."""
    found = []
    try:
        found.append(answers.get(timeout=LOOK_SECONDS))
        while True:
            found.append(answers.get_nowait())
    except queue.Empty:
        return found


def _crashed(answer: Any) -> bool:
    given = answer if isinstance(answer, list) else []
    return any(isinstance(one, Answer) and isinstance(one.error, WorkerCrashed) for one in given)


def _listed(workers: set[str]) -> str:
    return f"worker {', '.join(sorted(workers))} {'was' if len(workers) == 1 else 'were'}"


def _count(number: int) -> str:
    return "a shard is" if number == 1 else f"{number} shards are"
