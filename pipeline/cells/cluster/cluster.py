"""A Dask cluster whose workers were looked at: those that can't give the same bits are refused."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ....exporters.base import MissingLibrary
from ...errors import ClusterError
from ...progress import Progress
from ...settings.options import workers_of
from . import environment, files, tasks
from .environment import Environment, Needs
from .files import MissingFiles
from .local import LocalWorkers
from .member import LOGGERS, quiet
from .shards import perform

CONNECT_SECONDS, CLOSE_SECONDS = 4, 2
# How long a cluster may take to have its first worker.
FIRST_SECONDS = 60
# Of what images of a shard are sent: Dask would warn of far less.
LARGEST_SHARD = "16 GiB"


@dataclass
class Cluster:
    """A cluster that was found fit: see ``shards.Link``. ``asked`` is its address as it was given.

    ``seen`` are all workers that it had, ``dashboard`` says where to look at it.
    """

    asked: str
    address: str
    client: Any
    needs: Needs
    environment: Environment
    local: LocalWorkers | None = None
    seen: set[str] = field(default_factory=set)

    def workers(self) -> Mapping[str, int]:
        """See ``Link``. Raises ``ClusterError`` if the scheduler is gone."""
        with self._reached():
            found = dict(self.client.nthreads())
        self.seen |= found.keys()
        return found

    def submit(self, worker: str, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """See ``Link``."""
        from dask import config

        with (
            self._reached(),
            config.set({"distributed.admin.large-graph-warning-threshold": LARGEST_SHARD}),
        ):
            return self.client.submit(
                perform,
                self.environment,
                self.needs,
                task,
                arguments,
                workers=[worker],
                pure=False,
                key=f"edgepipe-{task.__name__}-{uuid.uuid4().hex}",
            )

    def bring(self, missing: MissingFiles) -> None:
        """See ``Link``. Raises ``ClusterError`` for files that change while they are sent."""
        wanted, where = missing.files, missing.address
        sender = uuid.uuid4().hex
        if self._ask(where, files.has, wanted):
            return
        for name, data in files.chunks(wanted):
            self._ask(where, files.receive, sender, wanted, name, data)
        if self._ask(where, files.received, sender, wanted) is False:
            raise ClusterError(f"{wanted.folder}: its files changed while they were sent")

    def revive(self) -> None:
        """See ``Link``."""
        if self.local:
            self.local.revive()

    def release(self) -> None:
        """Let the workers end the sessions that nobody uses any more."""
        with self._reached():
            self.client.run(tasks.release, on_error="ignore")

    def check(self) -> None:
        """Raise ``ClusterError`` for a worker whose environment differs, with the difference."""
        with self._reached():
            found = self.client.run(environment.describe, self.needs, on_error="return")
        for worker, there in sorted(found.items()):
            if isinstance(there, Exception):
                said = " ".join(str(there).split())
                raise ClusterError(
                    f"worker {worker}: no edgepipe as it is here, "
                    f"{self.environment['edgepipe']} ({said}); install the same there"
                )
            if differs := environment.difference(there, self.environment):
                raise ClusterError(f"worker {worker}: {differs}; install the same there")

    def _ask(self, worker: str, task: Callable[..., Any], *arguments: Any) -> Any:
        """What one worker answers at once; ``None`` if it is lost, which is seen elsewhere."""
        with self._reached():
            answer = self.client.run(task, *arguments, workers=[worker], on_error="return")
        found = answer.get(worker)
        if isinstance(found, Exception) and not isinstance(found, OSError):
            raise ClusterError(f"worker {worker}: {' '.join(str(found).split())}") from found
        return None if isinstance(found, Exception) else found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, TimeoutError, RuntimeError) as error:  # CommClosedError is an OSError
            raise ClusterError(
                f"{self.asked}: the scheduler is gone ({_one_line(error)}); finished shards are "
                "kept: run the command again when it is back"
            ) from error


@contextmanager
def opened(asked: str, needs: Needs, progress: Progress) -> Iterator[Cluster]:
    """Connect to a cluster, or make one of this machine's, and check its workers.

    Raises ``MissingLibrary`` without Dask, and ``ClusterError`` where there is no scheduler, no
    worker, or one whose environment differs.
    """
    distributed = _library()
    with _quiet(), ExitStack() as stack:
        local = None
        address, more = asked, {}
        if count := workers_of(asked):
            local = stack.enter_context(LocalWorkers.started(count, distributed))
            address, more = local.address, {"security": local.security}
        client = _client(distributed, asked, address, more)
        stack.callback(client.close, timeout=CLOSE_SECONDS)
        found = Cluster(asked, address, client, needs, environment.describe(needs), local)
        _await_workers(found, count or 1, progress)
        found.check()
        progress.say(f"cluster {asked}: {_count(len(found.workers()))}; {_dashboard(client)}")
        yield found


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[cluster]"') from error
    return distributed


def _client(distributed: Any, asked: str, address: str, more: Mapping[str, Any]) -> Any:
    security = more.get("security") or distributed.Security()

    async def identity() -> Mapping[str, Any]:
        told = security.get_connection_args("client")
        async with (
            asyncio.timeout(CONNECT_SECONDS),
            distributed.rpc(address, connection_args=told) as remote,
        ):
            return await remote.identity()

    try:
        # Asked before there is a client, which does not end well where it finds no scheduler; in
        # a thread, since whoever calls may have a loop that is running.
        with ThreadPoolExecutor(1) as pool:
            kind = pool.submit(asyncio.run, identity()).result()["type"]
        if kind != "Scheduler":
            raise ValueError(
                f"a Dask {kind.lower()} does, and it is the scheduler's that is needed"
            )
        return distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False, **more)
    except Exception as error:  # whatever is at that address, it is no scheduler
        raise ClusterError(
            f"--cluster {asked}: no Dask scheduler answers there ({_one_line(error)})"
        ) from error


def _await_workers(cluster: Cluster, count: int, progress: Progress) -> None:
    """Wait for the first workers."""
    if len(cluster.workers()) < count and not cluster.local:
        progress.say(f"cluster {cluster.asked}: waiting for a worker")
    try:
        cluster.client.wait_for_workers(count, timeout=FIRST_SECONDS)
    except (TimeoutError, OSError) as error:
        raise ClusterError(
            f"--cluster {cluster.asked}: no worker within {FIRST_SECONDS} s; start some: "
            "dask worker ADDRESS"
        ) from error


def _dashboard(client: Any) -> str:
    try:
        import bokeh  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        return "no dashboard: bokeh is not installed"
    return f"dashboard: {client.dashboard_link}"


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log off the terminal while a cluster is used."""
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    quiet()
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
