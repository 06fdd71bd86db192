"""Pipes to a worker: how much they hold, waiting for them, and how who was there has ended."""

from __future__ import annotations

import fcntl
import select
import signal
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


def signal_name(number: int) -> str:
    """The name of a signal: "SIGSEGV" for 11; real-time signals have none of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
