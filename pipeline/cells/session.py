"""Cells: variants x runners x targets x settings, and a session for each in a worker of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runners import registry
from ...runners.base import PlacementError, RunnerError, RunnerUnavailable, SessionError, Settings
from ...runners.bundles import formats
from ...runners.environments import environments
from ...runners.images import Preprocessing
from ...runners.targets import Target
from ...runners.workers.answers import Loaded
from ...runners.workers.launch import Timeouts, Worker
from ..errors import InputError, UsageError
from ..storage import onnx_models
from ..storage.goldens import Goldens, valid_rows
from . import engines

EMULATED_TIMEOUTS = Timeouts(start=300.0, load=900.0, run=300.0)
BUILDING_TIMEOUTS = Timeouts(load=1800.0)


@dataclass(frozen=True)
class Cell:
    """One variant on one runner on one target with one setting.

    ``file`` is the artifact that the runner takes, ``beside`` are those that belong to it.
    ``threads`` is ``None`` for the physical cores of the target, ``python`` the interpreter if
    the runner has one of its own. With ``allow_fallback`` nodes may be placed elsewhere than on
    the runner's provider and device. Without ``optimize`` the graph is run as the file has it.
    ``batch`` is ``None`` for the model's own, 1 where it is dynamic. ``streams`` and ``options``
    are as in ``Settings``; ``tuned`` says that they are those which tune recommends.
    """

    variant: str
    runner: str
    target: Target
    precision: str
    file: str
    threads: int | None
    python: str | None = None
    device: str = "CPU"
    allow_fallback: bool = False
    optimize: bool = True
    beside: tuple[str, ...] = ()
    batch: int | None = None
    streams: int | None = 1
    options: tuple[tuple[str, Any], ...] = ()
    tuned: bool = False

    def __str__(self) -> str:
        place = "" if self.target.name == "local" else f" on {self.target.name}"
        device = "" if self.device == "CPU" else f" {self.device}"
        batch = "" if self.batch is None else f" batch {self.batch}"
        return f"{self.variant} / {self.runner}{device} {self.precision}{batch}{place}"

    def settings(self, cores: int) -> Settings:
        """What the runner is told, on a target with so many physical cores."""
        return Settings(
            self.threads or cores,
            self.precision,
            self.device,
            self.allow_fallback,
            self.optimize,
            self.streams,
            self.batch,
            dict(self.options),
        )


@dataclass(frozen=True)
class OpenCell:
    """A cell's running worker with its session loaded."""

    worker: Worker
    loaded: Loaded
    asked_batch: int | None = None

    @property
    def batch(self) -> int:
        """See ``batch_of``."""
        return batch_of(self.loaded, self.asked_batch)


def batch_of(loaded: Loaded, asked: int | None) -> int:
    """Images in one run: the model's own batch; where it is dynamic what was asked for, or 1.

    Raises ``SessionError`` for a model that can't have the batch that was asked for.
    """
    own = loaded.inputs[0].shape[0]
    if own is None or asked in (None, own):
        return own or asked or 1
    raise SessionError(
        f"the model has a batch of {own}, not {asked}: export it with --batch dynamic"
    )


def timeable(cells: Sequence[Cell]) -> None:
    """Raise ``UsageError`` for an emulated target, whose timings would mean nothing."""
    for cell in cells:
        if cell.target.emulated:
            raise UsageError(f"target {cell.target.name} is emulated: timings there mean nothing")


def real(cells: Sequence[Cell]) -> None:
    """Raise ``UsageError`` for a target that computes as another CPU than the one it has.

    What is found there by measuring is about no machine that anybody has.
    """
    for cell in cells:
        if cell.target.isa is not None:
            raise UsageError(
                f"target {cell.target.name} is this CPU computing as another one: "
                "bench gives an estimate of that"
            )


def with_settings(cell: Cell, settings: Mapping[str, Any], *, tuned: bool = False) -> Cell:
    """A cell with some other ``Settings``, by their names."""
    settings = dict(settings)
    options = tuple(sorted(settings.pop("options", {}).items()))
    return replace(cell, **settings, options=options, tuned=tuned)


def timeouts_of(target: Target, runner: str = "") -> Timeouts:
    """How long a worker on a target may take for an answer, with a runner that may build first."""
    if target.emulated:
        return EMULATED_TIMEOUTS
    return BUILDING_TIMEOUTS if registry.builds(runner) else Timeouts()


def shares_fate(other: Cell, cell: Cell, error: RunnerError) -> bool:
    """Whether ``other`` would fail as ``cell`` did, so that it needn't be tried.

    A worker that doesn't start is missed by all cells that start it, an unavailable runner by
    all of its cells on the target.
    """
    if not error.greeted:
        return (other.target, other.python) == (cell.target, cell.python)
    same_runner = (other.runner, other.target) == (cell.runner, cell.target)
    return same_runner and isinstance(error, RunnerUnavailable)


def status_of(error: RunnerError) -> str:
    """ "unavailable" for a runner that isn't there, "failed" for one that is and gave nothing.

    A place where no worker starts was asked for by name: that is a failure, too.
    """
    missing = isinstance(error, RunnerUnavailable) and error.greeted
    return "unavailable" if missing else "failed"


@contextmanager
def open_cell(
    cell: Cell, model: Path, cache: Mapping[str, bytes] | None = None, *, profiled: bool = False
) -> Iterator[OpenCell]:
    """Start a worker on the cell's target and load the cell's file in it, with ``Worker.load``.

    Raises ``RunnerError``: unavailable, refused the model, placed elsewhere than asked, or the
    worker died; ``InputError`` for a model that keeps tensors in files of its own choice.
    """
    with closing(start_worker(cell)) as worker:
        yield load_cell(worker, cell, model, cache, profiled=profiled)


def start_worker(cell: Cell) -> Worker:
    """A worker on the cell's target, to be closed. Raises ``RunnerError`` if none starts."""
    argv = cell.target.argv(interpreter(cell.target, cell.python))
    return Worker(argv, timeouts_of(cell.target, cell.runner)).__enter__()


def interpreter(target: Target, python: str | None) -> str:
    """The Python of a worker: the target's environment's, else ``python``, or this one.

    ``python`` is that of a runner that has its own. Raises ``RunnerUnavailable`` for a target
    whose environment isn't there or can't be used.
    """
    if target.environment is None:
        return python or sys.executable
    try:
        found = environments.python_of(target.environment)
        if found is None:
            raise RunnerUnavailable(
                f"target {target.name} needs an environment: "
                f"edgepipe env create {target.environment}"
            )
    except RunnerUnavailable as error:
        error.greeted = False  # no runner has a worker there
        raise
    return found


def load_cell(
    worker: Worker,
    cell: Cell,
    model: Path,
    cache: Mapping[str, bytes] | None = None,
    *,
    profiled: bool = False,
) -> OpenCell:
    """Load the cell's file in a worker. Raises as ``open_cell``."""
    files = files_of(cell, model)
    settings = cell.settings(int(worker.hello["host"]["physical_cores"]))
    if registry.builds(cell.runner) and cache is None and not profiled:
        loaded = engines.load(worker, cell.runner, files, settings)
    else:
        loaded = worker.load(cell.runner, files, settings, cache, profiled)
    audit(loaded, cell.allow_fallback)
    return OpenCell(worker, loaded, cell.batch)


def files_of(cell: Cell, model: Path) -> dict[str, Path]:
    """A cell's files by name, the main one first. No runner follows a path out of them."""
    beside = map(model.with_name, cell.beside) if cell.beside else onnx_models.files(model)[1:]
    files = (model, *beside)
    if found := formats.problem(files):
        raise InputError(f"{model.parent}: {found}; save it as one file and export again")
    return {path.name: path for path in files}


def audit(loaded: Loaded, allow_fallback: bool) -> None:
    """A runner refuses by itself what it can; this is what holds for all, plug-ins included."""
    placement = loaded.placement
    elsewhere = placement.elsewhere()
    if elsewhere and not allow_fallback:
        where = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
        raise PlacementError(
            f"not all nodes are on {placement.provider}: {where}; --allow-fallback accepts that"
        )
    if placement.nodes and placement.provider and placement.provider not in placement.nodes:
        raise PlacementError(f"no node is on {placement.provider}")


def run_goldens(
    opened: OpenCell,
    goldens: Goldens,
    preprocessing: Preprocessing | None,
    count: int | None = None,
    step: Callable[[int], None] = lambda _done: None,
) -> dict[str, np.ndarray]:
    """All the cell's outputs for the first ``count`` goldens: name -> ``[count, ...]``.

    ``step`` is told after each run how many are done. Raises as ``run_batches``.
    """
    name = opened.loaded.inputs[0].name
    feeds = goldens.batches(preprocessing, name, opened.batch, count)
    return run_batches(opened, feeds, step)


def run_batches(
    opened: OpenCell,
    batches: Iterable[tuple[Mapping[str, np.ndarray], slice, int]],
    step: Callable[[int], None] = lambda _done: None,
) -> dict[str, np.ndarray]:
    """The outputs of all rows of ``(feeds, rows, valid)``: name -> ``[rows, ...]``.

    ``step`` is told after each run how many rows are done. What the outputs are is for the
    caller to judge; ``SessionError`` is raised only if they change their form between runs.
    """
    collected: dict[str, list[np.ndarray]] = {}
    for feeds, rows, valid in batches:
        batch = len(next(iter(feeds.values())))
        for output, array in opened.worker.run(feeds).arrays.items():
            collected.setdefault(output, []).append(valid_rows(array, batch, valid))
        step(rows.stop)
    try:
        return {output: np.concatenate(parts) for output, parts in collected.items()}
    except ValueError as error:
        raise SessionError(f"the outputs change their shape from run to run: {error}") from error


class Opener:
    """Opens cells; what was found missing for one is not looked for again for another."""

    def __init__(self) -> None:
        self._lost: list[tuple[Cell, RunnerError]] = []

    @contextmanager
    def open(self, cell: Cell, model: Path) -> Iterator[OpenCell]:
        """``open_cell``, or at once what it raised for a cell whose fate this one shares."""
        for other, error in self._lost:
            if shares_fate(cell, other, error):
                raise error
        try:
            with open_cell(cell, model) as opened:
                yield opened
        except RunnerError as error:
            self._lost.append((cell, error))
            raise
