"""Cells: variants x runners x targets x settings, and a session for each in a worker of its own."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runners import registry
from ..runners.base import RunnerError, RunnerUnavailable, SessionError, Settings
from ..runners.launch import LOCAL, Loaded, Target, Timeouts, Worker
from .config import CellsConfig, Config
from .errors import UsageError
from .goldens import Goldens
from .images import Preprocessing
from .workspace import Manifest

EMULATED_TIMEOUTS = Timeouts(start=300.0, load=900.0, run=300.0)


@dataclass(frozen=True)
class Cell:
    """One variant on one runner on one target at one precision.

    ``file`` is the artifact that the runner takes, ``beside`` are those that belong to it.
    ``threads`` is ``None`` for the physical cores of the target, ``python`` the interpreter if
    the runner has one of its own.
    """

    variant: str
    runner: str
    target: Target
    precision: str
    file: str
    threads: int | None
    python: str | None = None
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = "" if self.target.name == "local" else f" on {self.target.name}"
        return f"{self.variant} / {self.runner} {self.precision}{place}"


@dataclass(frozen=True)
class OpenCell:
    """A cell's running worker with its session loaded."""

    worker: Worker
    loaded: Loaded

    @property
    def batch(self) -> int:
        """Images in one run: the model's own batch, 1 where it is dynamic."""
        return self.loaded.inputs[0].shape[0] or 1


def plan(
    manifest: Manifest, config: Config, section: CellsConfig
) -> tuple[list[Cell], dict[str, str]]:
    """The cells of a command: every variant on every runner that takes one of its formats.

    Returns the cells and the runners that can't even be asked for their formats, with the
    reason. Raises ``UsageError`` if what was asked for leaves no cell.
    """
    variants = section.variants or tuple(manifest.variants)
    for variant in variants:
        if variant not in manifest.variants:
            raise UsageError(
                f"variant {variant} is not in {config.workspace / config.model}: "
                f"run `edgepipe export --variant {variant}`"
            )
    cells: list[Cell] = []
    broken: dict[str, str] = {}
    for runner in section.runners or registry.names():
        try:
            formats = formats_of(runner, config)
        except RunnerError as error:
            broken[runner] = str(error)
            continue
        for variant, target, precision in itertools.product(
            variants, section.targets, section.precisions
        ):
            files = manifest.variants[variant]
            file = next((files[name] for name in formats if name in files), None)
            if file is not None:
                cells.append(
                    Cell(
                        variant,
                        runner,
                        config.target(target),
                        precision,
                        file,
                        section.threads,
                        config.python_of(runner),
                        manifest.files(file)[1:],
                    )
                )
    if not cells and not broken:
        raise UsageError(
            f"no runner of {', '.join(section.runners)} takes the variants {', '.join(variants)}"
        )
    return cells, broken


def formats_of(runner: str, config: Config) -> tuple[str, ...]:
    """The model formats that a runner takes, best first.

    A plug-in is asked in a worker, so that nothing its import does can end the command.
    Raises ``RunnerError`` if it can't say.
    """
    known = registry.entry(runner).formats
    if known is not None:
        return known
    with Worker(LOCAL.argv(config.python_of(runner) or sys.executable)) as worker:
        return worker.describe(runner).formats


def timeouts_of(target: Target) -> Timeouts:
    """How long a worker on a target may take for an answer."""
    return EMULATED_TIMEOUTS if target.emulated else Timeouts()


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
def open_cell(cell: Cell, model: Path) -> Iterator[OpenCell]:
    """Start a worker on the cell's target and load the cell's file in it.

    Raises ``RunnerError``: unavailable, refused the model, or the worker died.
    """
    argv = cell.target.argv(cell.python or sys.executable)
    with Worker(argv, timeouts_of(cell.target)) as worker:
        threads = cell.threads or int(worker.hello["host"]["physical_cores"])
        settings = Settings(threads, cell.precision)
        paths = (model, *map(model.with_name, cell.beside))
        files = {path.name: path.read_bytes() for path in paths}
        loaded = worker.load(cell.runner, files, settings)
        yield OpenCell(worker, loaded)


def run_goldens(
    opened: OpenCell,
    goldens: Goldens,
    preprocessing: Preprocessing,
    count: int | None = None,
    step: Callable[[int], None] = lambda _done: None,
) -> dict[str, np.ndarray]:
    """All the cell's outputs for the first ``count`` goldens: name -> ``[count, ...]``.

    ``step`` is told after each run how many are done. What the outputs are is for the caller to
    judge; ``SessionError`` is raised only if they change their form from one run to the next.
    """
    collected: dict[str, list[np.ndarray]] = {}
    name = opened.loaded.inputs[0].name
    for feeds, rows, valid in goldens.batches(preprocessing, name, opened.batch, count):
        for output, array in opened.worker.run(feeds).arrays.items():
            # An output without the batch in front can't be cut; it is judged as it is.
            whole = array.ndim == 0 or len(array) != opened.batch
            collected.setdefault(output, []).append(array[None] if whole else array[:valid])
        step(rows.stop)
    try:
        return {output: np.concatenate(parts) for output, parts in collected.items()}
    except ValueError as error:
        raise SessionError(f"the outputs change their shape from run to run: {error}") from error
