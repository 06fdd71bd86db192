"""The process of one worker of a cluster on this machine, and what any worker knows of itself.

    python -P -m edgepipe.pipeline.cells.cluster.member

Reads where the scheduler is from the first line of stdin, and ends with its stdin: whatever ends
the command ends its workers. Not Dask's own LocalCluster, whose processes import the program that
starts them once more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from typing import Any

from ....runners.machine import own_process

QUIET = logging.CRITICAL + 1
LOGGERS = ("distributed", "distributed.client", "bokeh", "tornado", "tornado.application")
# Seconds that a scheduler may not be heard of.
DEATH_SECONDS = 30


def here() -> Any:
    """The Dask worker that this is called in."""
    from distributed import get_worker

    return get_worker()


def quiet() -> None:
    """Keep what Dask would log off the terminal: what matters of it is said by the command."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(QUIET)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


async def _serve(told: dict[str, Any]) -> None:
    from dask import config
    from distributed import Security, Worker

    quiet()
    config.set({"distributed.worker.profile.enabled": False})  # it takes time of the one thread
    worker = Worker(
        told["address"],
        nthreads=1,
        name=told["name"],
        host=told["host"],
        dashboard_address=f"{told['host']}:0",
        local_directory=told["folder"],
        security=Security(**told["security"]),
        death_timeout=DEATH_SECONDS,
        memory_limit=0,  # nothing is kept that could be moved to disk
        silence_logs=QUIET,
    )
    async with worker:
        await worker.finished()


def main() -> None:
    """The child: work until the parent is gone."""
    own_process.claim()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a worker ends
    told = json.loads(os.fdopen(os.dup(0), "rb", buffering=0).readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_serve(told))


if __name__ == "__main__":
    sys.exit(main())
