"""Sessions that a worker keeps open between shards: loading would take longer than running them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..session import Cell, OpenCell, open_cell

# Sessions that nobody uses right now, and for how long they stay.
MOST_IDLE, IDLE_SECONDS = 8, 60.0
Key = tuple[Cell, str]


@dataclass
class _Kept:
    key: Key
    opened: OpenCell
    close: ExitStack
    since: float = field(default_factory=time.monotonic)


class Sessions:
    """Open cells by what was opened. Threads of one worker never share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Kept] = []
        self._timer: threading.Timer | None = None
        self._spoiled: set[int] = set()

    @contextmanager
    def open(self, cell: Cell, model: Path, digest: str) -> Iterator[OpenCell]:
        """A session of the cell, which stays open unless something fails in it.

        ``digest`` tells the model's files from others that may have lain there. Raises as
        ``open_cell``.
        """
        kept = self._take((cell, digest))
        if kept is None:
            with ExitStack() as stack:
                opened = stack.enter_context(open_cell(cell, model))
                kept = _Kept((cell, digest), opened, stack.pop_all())
        try:
            yield kept.opened
        except BaseException:
            kept.close.close()
            raise
        if id(kept.opened) in self._spoiled:
            self._spoiled.discard(id(kept.opened))
            kept.close.close()
            return
        kept.since = time.monotonic()
        with self._lock:
            self._idle.append(kept)
            over = self._idle[:-MOST_IDLE]
            del self._idle[:-MOST_IDLE]
        _close(over)
        self._watch()

    def spoil(self, opened: OpenCell) -> None:
        """Say of a session that is in use that it failed, so that nobody uses it again."""
        self._spoiled.add(id(opened))

    def close(self) -> None:
        """End all that are idle."""
        self._end_those_before(time.monotonic())

    def _take(self, key: Key) -> _Kept | None:
        with self._lock:
            for place, kept in enumerate(self._idle):
                if kept.key == key:
                    return self._idle.pop(place)
        return None

    def _end_those_before(self, moment: float) -> None:
        with self._lock:
            old = [one for one in self._idle if one.since <= moment]
            self._idle = [one for one in self._idle if one.since > moment]
        _close(old)

    def _watch(self) -> None:
        """A run that was killed leaves sessions behind on workers that live on."""
        with self._lock:
            if self._timer is None and self._idle:
                self._timer = threading.Timer(IDLE_SECONDS, self._tick)
                self._timer.daemon = True
                self._timer.start()

    def _tick(self) -> None:
        with self._lock:
            self._timer = None
        self._end_those_before(time.monotonic() - IDLE_SECONDS)
        self._watch()


def _close(some: list[_Kept]) -> None:
    for kept in some:
        kept.close.close()


KEPT = Sessions()
