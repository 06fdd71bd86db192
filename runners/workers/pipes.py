"""The pipes between a worker and its parent, which never block: how long to wait for one."""

from __future__ import annotations

import fcntl
import select
import time
from contextlib import suppress

PIPE_BYTES = 1 << 20


def widen(pipe: int) -> None:
    """Let a pipe hold an image's tensor at once, where Linux allows it: fewer turns for each."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # beyond what this user may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def wait(descriptor: int, event: int, deadline: float) -> None:
    """Sleep until the pipe is ready or broken; ``TimeoutError`` at the deadline."""
    poller = select.poll()
    poller.register(descriptor, event)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poller.poll(remaining * 1000):
        raise TimeoutError
