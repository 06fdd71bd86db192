"""What a command tells while it works: lines and a bar on stderr, or nothing."""

from __future__ import annotations

import sys
from typing import Protocol


class Progress(Protocol):
    """Where a command reports to."""

    def say(self, text: str) -> None:
        """One line that stays."""
        ...

    def step(self, done: int, total: int, text: str) -> None:
        """How far it is, and what is being done now."""
        ...


class Silent:
    """Reports nowhere: for Python callers and ``--quiet``."""

    def say(self, text: str) -> None:
        """Dropped."""

    def step(self, done: int, total: int, text: str) -> None:
        """Dropped."""


class Stderr:
    """Lines on stderr; on a terminal the current step stands below them and is overwritten."""

    WIDTH = 24

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = False

    def say(self, text: str) -> None:
        """One line that stays."""
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def step(self, done: int, total: int, text: str) -> None:
        """A bar on a terminal; elsewhere nothing, since a log has no use for it."""
        if not self._live:
            return
        self._clear()
        if done < total:
            filled = self.WIDTH * done // total
            bar = "━" * filled + "─" * (self.WIDTH - filled)
            sys.stderr.write(f"{bar} {done}/{total} {text}"[:99])
            sys.stderr.flush()
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[2K")
            self._shown = False


SILENT = Silent()
