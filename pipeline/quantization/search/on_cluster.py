"""The trials of a round on the workers of a cluster, side by side; times are never taken there."""

from __future__ import annotations

import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ....runners.base import RunnerError
from ...cells.cluster import cluster, files
from ...cells.cluster.cluster import Cluster
from ...cells.cluster.environment import ALWAYS, Needs
from ...cells.cluster.files import Files
from ...cells.cluster.shards import Shard, Shards
from ...cells.cluster.spread import ClusterUse
from ...errors import StageError
from ...progress import Progress
from ...stages.native import Native
from ...stages.quantize import CALIBRATION
from ...storage import onnx_models
from .search_result import Candidate, Trial
from .trials import Trials, quantized

# Which kernels judge, and in how many threads, shows in the last bits of a distance.
NEEDS = Needs((*ALWAYS, "onnx", "onnxruntime"), kernels=True, cores=True)
FEEDS = "feeds.npz"
SAMPLE, HELD_OUT = "sample", "held_out"


@dataclass(frozen=True)
class Job:
    """What all trials of a search are made of: files that every worker gets once."""

    model: Files
    calibration: Files
    feeds: Files


@dataclass
class ClusterTrials:
    """Makes candidates on a cluster; what is known stays with the ``trials`` of the search."""

    cluster: Cluster
    trials: Trials
    job: Job
    progress: Progress
    _shards: Shards = field(init=False)
    _machines: set[str] = field(default_factory=set)
    _done: int = 0

    def __post_init__(self) -> None:
        self._shards = Shards(self.cluster, self.progress.say)

    @property
    def use(self) -> ClusterUse:
        """How the trials were spread so far."""
        machines, retried = tuple(sorted(self._machines)), self._shards.retried
        workers = len(self.cluster.seen)
        return ClusterUse(self.cluster.asked, workers, machines, self._done, 0, retried)

    def attempts(self, wanted: Sequence[Candidate], over: Callable[[], bool]) -> list[Trial]:
        """See ``strategy.Attempts``: all of them at the same time."""
        known = self.trials.known

        def shard(candidate: Candidate) -> Shard:
            name = f"{', '.join(candidate.recipe)}, {len(candidate.floats)} layers in float"
            return Shard(name, (candidate,), attempt, lambda _: (self.job, candidate))

        def take(_one: Shard, given: tuple[str, Trial]) -> None:
            machine, trial = given
            self._machines.add(machine)
            self._done += 1
            known[trial.candidate] = trial
            self.trials.note(known.values())

        new = [one for one in wanted if one not in known]
        self._shards.run(list(map(shard, new)), take, over)
        made = [known[one] for one in wanted if one in known]
        for candidate in new:  # in the order that one worker alone would have made them in
            if candidate in known:
                known[candidate] = known.pop(candidate)
        return made


@contextmanager
def on_cluster(
    asked: str | None, trials: Trials, progress: Progress
) -> Iterator[ClusterTrials | None]:
    """The cluster that was ``asked`` for, if one was. Raises as ``cluster.opened``."""
    if asked is None:
        yield None
        return
    with cluster.opened(asked, NEEDS, progress) as found:
        feeds = trials.model.with_name(FEEDS)
        np.savez(feeds, allow_pickle=False, **_packed(trials))
        job = Job(
            Files.of(*onnx_models.files(trials.model)),
            Files.of(trials.folder / CALIBRATION),
            Files.of(feeds),
        )
        yield ClusterTrials(found, trials, job, progress)
        found.client.run(release, on_error="ignore")


def _packed(trials: Trials) -> dict[str, np.ndarray]:
    """What steps run, and what candidates are judged on, as arrays "KIND/RUN/INPUT"."""
    kinds = ((SAMPLE, trials.calibrate.sampled()), (HELD_OUT, trials.seen))
    return {
        f"{kind}/{number}/{name}": array
        for kind, runs in kinds
        for number, feeds in enumerate(runs)
        for name, array in feeds.items()
    }


def _unpacked(path: Path) -> dict[str, list[Mapping[str, np.ndarray]]]:
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {SAMPLE: {}, HELD_OUT: {}}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            kind, number, name = key.split("/", 2)
            found[kind].setdefault(int(number), {})[name] = arrays[key]
    return {kind: [runs[number] for number in sorted(runs)] for kind, runs in found.items()}


class _Maker:
    """What a worker keeps between the trials of one search: its quantizing process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._close = ExitStack()

    def attempt(self, job: Job, candidate: Candidate) -> Trial:
        """Make and judge a candidate; see ``Trial``."""
        model, calibration, feeds = map(files.place, (job.model, job.calibration, job.feeds))
        began = time.monotonic()
        with self._lock:
            try:
                if job != self._job:
                    self._begin(job, feeds)
                made = quantized(self._native, model, self._output, calibration, candidate)
            except (StageError, RunnerError) as error:
                self._end()
                seconds = time.monotonic() - began
                return Trial(candidate, None, None, seconds, str(error))
        sqnr_db, agreement = made["gained"][-1][1], made["agreement"]
        return Trial(candidate, sqnr_db, agreement, time.monotonic() - began)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _begin(self, job: Job, feeds: Path) -> None:
        self._end()
        self._native = self._close.enter_context(Native())
        folder = self._close.enter_context(tempfile.TemporaryDirectory(prefix="edgepipe-"))
        self._output = Path(folder) / "trial.onnx"
        self._native.ask("forget")
        for kind, runs in _unpacked(feeds).items():
            for run in runs:
                self._native.ask(kind, run)
        self._job = job

    def _end(self) -> None:
        self._job = None
        self._close.close()


_MAKER = _Maker()


def attempt(job: Job, candidate: Candidate) -> tuple[str, Trial]:
    """On a worker: the machine's name, and the candidate's trial."""
    return platform.node(), _MAKER.attempt(job, candidate)


def release() -> None:
    """On a worker: end what was kept for trials."""
    _MAKER.close()
