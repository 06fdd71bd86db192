"""What a runner is: the two protocols, what flows between them, and what can go wrong.

RunnerError                 the cell has no result
+-- RunnerUnavailable       this environment or machine can't run the runner at all
+-- SessionError            the runner works, but not with this model or these inputs
|   +-- PlacementError      part of the model would run elsewhere than asked
|   +-- OutOfMemory         there is no memory left for it, on the machine or its device
+-- StorageFull             there is no room for temporary files
+-- WorkerError             the worker process itself failed
    +-- WorkerCrashed       it ended: exit status or signal
    +-- WorkerTimeout       it did not answer in time and was killed
    +-- WorkerGarbage       it answered something that isn't the protocol
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


class RunnerError(Exception):
    """A runner gave no result. The message is one line: what, and what to do.

    ``greeted`` is False if not even a worker started: then no runner works there.
    """

    greeted = True


class RunnerOptionError(Exception):
    """What the runners were asked for makes no sense. One line: what, and what to do."""


class RunnerUnavailable(RunnerError):
    """The runner can't work here: a missing library or device. Says how to install it."""


class SessionError(RunnerError):
    """The runner refused the model, or failed while running it."""


class PlacementError(SessionError):
    """Nodes are, or would be, on another provider or device than the runner's own."""


class OutOfMemory(SessionError):
    """The machine, or the device, has no memory left for the model or for a run of it."""


# How an allocation that failed is told of: by C++ and Linux, ONNX Runtime's arena (also one with a
# limit), CUDA and torch on it, cuDNN and cuBLAS, TensorRT, torch on a CPU.
NO_MEMORY = re.compile(
    r"bad_alloc|out ?of ?memory|can(no|')t allocate memory|failed to allocate"
    r"|could not be allocated|is smaller than requested bytes|status_alloc_failed",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says, in whatever library's words, that an allocation failed."""
    return isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) is not None


def session_error(error: Exception, said: str = "") -> SessionError:
    """What a library raised, as ours: ``said`` with its kind and message unless told otherwise."""
    kind = OutOfMemory if is_out_of_memory(error) else SessionError
    return kind(said or f"{type(error).__name__}: {error}")


def unloadable(library: str, model: Path, error: Exception) -> SessionError:
    """What a library says of a model that it can't load.

    It names the file alone: a worker keeps its copy in another folder each time.
    """
    said = str(error).replace(str(model), model.name)
    return session_error(error, f"{library} can't load the model: {said}")


class StorageFull(RunnerError):
    """Temporary files can't be written for want of space. Says where, and what to do."""


class WorkerError(RunnerError):
    """The worker process failed. ``stderr`` holds the end of what it printed."""

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


class WorkerCrashed(WorkerError):
    """The worker ended while it owed an answer."""


class WorkerTimeout(WorkerError):
    """The worker did not answer within its deadline; its process group was killed."""


class WorkerGarbage(WorkerError):
    """The worker's answer was not the protocol; its process group was killed."""


class ImageError(Exception):
    """An image can't be used. One line: the file, and what is wrong with it."""


class MissingDecoder(Exception):
    """Pillow is not installed. Says how to install it."""


class MissingSigner(Exception):
    """The library for signatures is not installed. Says how to install it."""


class BundleError(Exception):
    """A bundle is damaged, or not what it claims to be. One line: the file, and what is wrong."""


class BundleUnreadable(BundleError):
    """A bundle that this edgepipe can't read, though nothing says that it was tampered with."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: ``dtype`` as numpy names it, ``None`` for a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Settings:
    """How a session is to run.

    ``threads`` is the size of the runner's compute pool, which ``streams`` runs share that are
    computed side by side; ``None`` lets the runner choose how many, for throughput.
    ``precision`` is that of the float operations ("f32", "bf16"); a runner that can't do it
    raises ``SessionError``, it never runs in another one. ``device`` is the runner's own name
    for it ("CPU", "GPU").
    ``allow_fallback`` lets nodes that the runner's provider doesn't take run on the CPU's;
    without it they are a ``PlacementError``.
    Without ``optimize`` every node is to be computed as the file has it; a runner that can't do
    that raises ``SessionError``.
    ``batch`` fixes a dynamic first dimension of every input, which a runner may compute faster.
    ``options`` are the runner's own, those of its ``tunables``; it refuses others with
    ``SessionError``. In the folder ``cache`` a runner may keep what makes the next load faster.
    """

    threads: int
    precision: str = "f32"
    device: str = "CPU"
    allow_fallback: bool = False
    optimize: bool = True
    streams: int | None = 1
    batch: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cache: str | None = None

    def refuse_unknown(self, runner: str, tunables: Mapping[str, Any]) -> None:
        """Raise ``SessionError`` for an option that isn't one of the runner's."""
        for name in self.options:
            if name not in tunables:
                known = ", ".join(tunables) or "none"
                raise SessionError(f"{runner} has no option {name!r}; known: {known}")


@dataclass(frozen=True)
class Placement:
    """Where and how a session really runs, as read back from it, not as asked for.

    ``nodes`` counts graph nodes per execution provider (or device); ``provider`` is the one of
    its keys that was asked for, empty where a plug-in does not say. ``device_name`` is what the
    device calls itself, empty where it can't be asked. ``precision`` is that of the float
    operations and ``precision_from`` how it is known: "read back" from the session, "probed"
    with a model that tells precisions apart (see ``probe``), or the "only one" there is.
    ``convolutions`` counts convolutions by the kernel that executes them ("int8", "f32",
    "bf16") where the runner can tell, and is empty where it can't. ``streams`` is how many runs
    are computed side by side. ``isa`` is the instruction set that oneDNN says it uses, in its own
    words; it is asked, by the worker, where it is to compute as an older CPU.
    """

    device: str
    precision: str
    threads: int
    nodes: Mapping[str, int] = field(default_factory=dict)
    convolutions: Mapping[str, int] = field(default_factory=dict)
    provider: str = ""
    device_name: str = ""
    precision_from: str = ""
    streams: int = 1
    isa: str | None = None

    def shares(self) -> dict[str, float]:
        """Per cent of the nodes on each provider; adds up to 100."""
        total = sum(self.nodes.values()) or 1  # a model that folds to a constant has no node
        return {name: round(100 * count / total, 2) for name, count in self.nodes.items()}

    def elsewhere(self) -> dict[str, int]:
        """Nodes on other providers than the one that was asked for."""
        if not self.provider:
            return {}
        return {name: count for name, count in self.nodes.items() if name != self.provider}


class Session(Protocol):
    """One loaded model. Owns no clock: the worker takes the time around ``run``."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def placement(self) -> Placement:
        """Asked for once the loading has been timed, so it may run a probe of its own.

        Raises ``SessionError`` if it finds another precision than the one asked for.
        """
        ...

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. ``feeds`` holds every input by name; returns every output by name.

        The outputs are the caller's to keep, the feeds are left as they are. Raises
        ``SessionError`` if it fails, also for an input that is missing or does not fit.
        """
        ...

    def close(self) -> None:
        """Free the session; no ``run`` after it. Closing it again does nothing."""
        ...


class Queue(Protocol):
    """Runs of one session, ``streams`` of them under way at once."""

    def submit(
        self, feeds: Mapping[str, np.ndarray], done: Callable[[dict[str, np.ndarray]], None]
    ) -> None:
        """Wait for a free place and start a run there.

        ``done`` gets the outputs once there are any, on whatever thread; they are valid until it
        returns. It must not raise. A run that fails is reported by ``wait``.
        """
        ...

    def wait(self) -> None:
        """Wait for all runs. Raises ``SessionError`` if one of them failed."""
        ...

    def close(self) -> None:
        """Give up the places; no ``submit`` after it."""
        ...


class Concurrent(Protocol):
    """What a session has beside ``Session`` if it can have several runs under way at once."""

    def queue(self) -> Queue: ...


class Resident(Protocol):
    """What a session has beside ``Session`` if its device has a memory of its own."""

    def resident(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Bring feeds there, once; what is returned runs on them, and the outputs stay there.

        It returns when the run is over. Raises ``SessionError``, and so does what it returns.
        """
        ...


class Cached(Protocol):
    """What a session has beside ``Session`` if it can be loaded from ``Settings.cache``."""

    @property
    def from_cache(self) -> bool:
        """Whether this one was."""
        ...


@runtime_checkable
class Builder(Protocol):
    """What a runner has beside ``Runner`` if its sessions are ``Cached`` and costly to make.

    What its loading leaves in ``Settings.cache`` is kept with the model and given to it again.
    """

    def builds_for(self) -> Mapping[str, str]:
        """For each of ``devices()`` what such a cache is good for alone, in a line.

        That is the versions of the libraries, the device and its driver. Raises
        ``RunnerUnavailable``.
        """
        ...


# What is answered for a runner that isn't a ``Profiler``.
NO_PROFILER = "{} can't say what its nodes take: it has no profiler"


@dataclass(frozen=True)
class NodeTime:
    """What a node of the graph takes in one run, as the runner executes it.

    ``operator`` is what the runner calls it ("QLinearConv"), ``kernel`` what executes it, empty
    where nobody says. ``precision`` is that of the arithmetic: "int8", "f32", "bf16", …
    ``originals`` are names of the nodes and tensors of the file that became this one, as far as
    the runner tells. ``us`` are microseconds, 0 for what is too short to be seen.
    """

    name: str
    operator: str
    kernel: str
    precision: str
    provider: str
    us: float
    originals: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeTimes:
    """The nodes in the order they are executed in. ``statistic`` says what their times are over
    the runs: their "median", or the "mean" of a runner that only adds up. ``total_us`` is the same
    of what all of them take in a run; medians do not add up to that.
    """

    statistic: str
    total_us: float
    nodes: tuple[NodeTime, ...]


class ProfiledSession(Session, Protocol):
    """A session that keeps the times of its nodes, which makes its runs a little slower."""

    @property
    def most_runs(self) -> int | None:
        """How many runs it can keep, the first ones included; ``None`` for any number."""
        ...

    def begin(self) -> None:
        """Leave out what ran before: it warmed up."""
        ...

    def times(self) -> NodeTimes:
        """Of the runs since ``begin``; asked once. Raises ``SessionError`` if there are none."""
        ...


@runtime_checkable
class Profiler(Protocol):
    """What a runner has beside ``Runner`` if it can tell how long each node takes."""

    def load_profiled(self, model: Path, settings: Settings) -> ProfiledSession:
        """As ``load``, with whatever keeps the times of nodes turned on."""
        ...


class Runner(Protocol):
    """A backend. ``formats`` are the model formats it takes, best first.

    ``precisions`` are those of the float operations it can be asked for, where the device has
    them; the first one is what it takes on every device.

    A runner may also have ``tunables``: the names of its options with the values worth trying
    beside the default, which is to leave the option out, as ``{"spinning": (False,)}``.
    """

    @property
    def name(self) -> str: ...
    @property
    def formats(self) -> tuple[str, ...]: ...
    @property
    def precisions(self) -> tuple[str, ...]: ...

    def version(self) -> str:
        """The version of the library behind it; raises ``RunnerUnavailable`` without it."""
        ...

    def unavailable(self) -> str | None:
        """``None``, or why it can't run here and what to do about it."""
        ...

    def devices(self) -> tuple[str, ...]:
        """The devices found here, by the runner's own names; raises ``RunnerUnavailable``."""
        ...

    def load(self, model: Path, settings: Settings) -> Session:
        """Load a model file. Raises ``RunnerUnavailable`` or ``SessionError``."""
        ...
