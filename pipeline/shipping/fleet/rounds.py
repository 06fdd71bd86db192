"""Many boxes at the same time: each is asked, and those that are away are asked again later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, Lock

from ....runners.base import SessionError, WorkerCrashed, WorkerTimeout
from ....runners.targets import SSH_REMEDIES, Target
from ...errors import Terminated
from ...progress import SILENT, Progress
from ..delivery import Delivery, Line, connected
from ..receiver import BUSY
from .boxes import Box
from .rollout_result import BoxState

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0


class Away(Exception):
    """A box gives no answer now. ``hopeless``: nor will it later, until somebody does something."""

    def __init__(self, reason: str, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


class Halted(Exception):
    """The rollout ends, and with it whatever a thread of it was doing."""


class Rounds:
    """Asks boxes in rounds of ``parallel`` ones, and waits ``patience`` seconds for those away.

    ``dial`` makes the connections; all of them end when a round is interrupted.
    """

    def __init__(
        self,
        parallel: int,
        patience: float,
        dial: Callable[[Target], Line],
        progress: Progress = SILENT,
    ) -> None:
        self._parallel, self._patience, self._dial = parallel, patience, dial
        self._progress = progress
        self._halt, self._lock = Event(), Lock()
        self._open: list[Line] = []

    @contextmanager
    def connected(self, box: Box, progress: Progress) -> Iterator[Delivery]:
        """A connection to a box, which ends with the round it is made in. Raises ``Away``."""

        def dial(target: Target) -> Line:
            line = self._dial(target)
            with self._lock:
                self._open.append(line)
            return line

        with absence(), connected(box.target, box.deploy, box.verify, progress, dial) as delivery:
            # One that was being opened while the others were ended has to go now.
            if self._halt.is_set():
                raise Halted
            yield delivery

    def sleep(self, seconds: float) -> None:
        """Wait, unless the rollout ends."""
        if self._halt.wait(max(0.0, seconds)):
            raise Halted

    def ask(
        self,
        boxes: Sequence[BoxState],
        attempt: Callable[[BoxState], None],
        lost: Callable[[BoxState, str], None],
        patient: bool = True,
    ) -> None:
        """``attempt`` each box until it gives an answer; one that is ``Away`` for too long is lost.

        The pauses between the rounds grow. What else an attempt raises ends all of them.
        """
        pause, since, left = FIRST_PAUSE_SECONDS, dict[str, float](), list(boxes)
        patience = self._patience if patient else 0.0
        while left:
            waiting = []
            for box, away in self._round(left, attempt):
                new = box.name not in since
                first = since.setdefault(box.name, time.monotonic())
                if away.hopeless or time.monotonic() - first >= patience:
                    lost(box, str(away))
                    continue
                waiting.append(box)
                if new:
                    self._progress.say(f"waiting for {box.name}: {away}")
            left = waiting
            if left:
                ends = min(since[box.name] for box in left) + patience
                self.sleep(min(pause, ends - time.monotonic()))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _round(
        self, boxes: Sequence[BoxState], attempt: Callable[[BoxState], None]
    ) -> list[tuple[BoxState, Away]]:
        """Those that are away, each with what it said."""

        def once(box: BoxState) -> Away | None:
            if self._halt.is_set():
                raise Halted
            try:
                attempt(box)
            except Away as away:
                return away
            return None

        pool = ThreadPoolExecutor(min(self._parallel, len(boxes)), thread_name_prefix="box")
        try:
            futures = [pool.submit(once, box) for box in boxes]
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [one for one in futures if one.done() and one.exception()]
            if failed:
                self.halt()
                failed[0].result()
            found = zip(boxes, (future.result() for future in futures), strict=True)
            return [(box, away) for box, away in found if away]
        except (KeyboardInterrupt, Terminated):
            self.halt()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._open.clear()

    def halt(self) -> None:
        """End everything that is under way."""
        self._halt.set()
        with self._lock:
            lines = list(self._open)
        for line in lines:
            line.interrupt()


@contextmanager
def absence() -> Iterator[None]:
    """Raise ``Away`` for what a box says that is gone, or has another deployment just now."""
    try:
        yield
    except (WorkerCrashed, WorkerTimeout) as error:
        hopeless = not error.greeted and any(sign in str(error) for sign in SSH_REMEDIES)
        raise Away(str(error), hopeless) from error
    except SessionError as error:
        if BUSY in str(error):
            raise Away(str(error)) from error
        raise
