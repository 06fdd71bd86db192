"""Waiting for what takes a moment."""

from __future__ import annotations

import time
from collections.abc import Callable


def soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether ``condition`` comes true; a killed process takes a moment to go."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
