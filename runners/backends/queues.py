"""Several runs of one session under way at once, for sessions whose ``run`` takes many threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]
    Done = Callable[[dict[str, np.ndarray]], None]


class ThreadQueue:
    """A ``Queue`` of threads that each call a thread-safe ``run``.

    The places are given out by a semaphore, so that ``submit`` waits as a native queue does and
    no run waits inside where its time would not be seen.
    """

    def __init__(self, run: Callable[[Arrays], dict[str, np.ndarray]], places: int) -> None:
        self._run = run
        self._places = threading.Semaphore(places)
        self._count = places
        self._work: queue.SimpleQueue[tuple[Arrays, Done] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(places)]
        for thread in self._threads:
            thread.start()

    def submit(self, feeds: Arrays, done: Done) -> None:
        """See ``Queue.submit``."""
        self._places.acquire()
        self._work.put((feeds, done))

    def wait(self) -> None:
        """See ``Queue.wait``."""
        for _ in range(self._count):
            self._places.acquire()
        for _ in range(self._count):
            self._places.release()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """See ``Queue.close``."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (job := self._work.get()) is not None:
            feeds, done = job
            try:
                done(self._run(feeds))
            except Exception as error:
                self._error = self._error or error
            finally:
                self._places.release()
