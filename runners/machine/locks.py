"""Locks between processes. The kernel lets go of them, however the process that has one ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def hold(path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None) -> int:
    """Lock a file, made if need be, until the descriptor that is returned is closed.

    Others may have a ``shared`` one at the same time. If the lock can't be had at once,
    ``waiting`` is called and then waited for it; without it ``BlockingIOError`` is raised.
    """
    # Some network file systems lock alone only what is open for writing.
    access = os.O_RDONLY if shared else os.O_RDWR
    file = os.open(path, access | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(file, kind)
    except BaseException:
        os.close(file)
        raise
    return file
