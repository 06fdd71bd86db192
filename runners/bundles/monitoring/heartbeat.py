"""Heartbeats inside an application: goldens between its requests, and counts of its live images.

The replay has a thread of its own, and the session one lock: a request that arrives while a golden
runs waits for that one golden, and is told how long (``Prediction.waited_ms``). Nothing is ever
sent; what can't be written is counted, said once to the logger "edgepipe", and never in the way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Self

import numpy as np

from ...base import BundleError, BundleUnreadable, Session
from ...images import Preprocessing
from ...machine.files import is_file_name
from . import prometheus, replay
from .calibration import Calibration
from .drift import Drift, drift
from .probe import Probe
from .replay import Beat, Recorded
from .state import Live, Place, State, Store

LOGGER = logging.getLogger("edgepipe")
# A golden lets requests that wait go first, so many seconds at most: it looks each of the pauses.
PATIENCE_S, PAUSE_S = 1.0, 0.001
# Images in a window of first classes; two of them, the one being filled and the last, are compared.
WINDOW = 1000


@dataclass(frozen=True)
class Heartbeat:
    """What ``load_bundle`` is to watch, and where to write it: ``NAME.json`` and ``NAME.prom``.

    Each ``every_s`` seconds the first ``goldens`` of the bundle are replayed. Raises ``ValueError``
    for less than a second, no golden, or a name that is none for a file.
    """

    folder: Path | str
    every_s: float = 300.0
    goldens: int = 8
    name: str = "live"

    def __post_init__(self) -> None:
        if not 1 <= self.every_s < float("inf"):
            raise ValueError(f"every_s is {self.every_s:g}, at least a second")
        if self.goldens < 1:
            raise ValueError(f"goldens is {self.goldens}, at least one")
        if not is_file_name(self.name) or self.name.startswith("."):
            raise ValueError(f"{self.name!r} is no name for a file")


@dataclass(frozen=True)
class Watched:
    """What a bundle says of the session that is watched: see ``Place``, ``Recorded``."""

    place: Place
    preprocessing: Preprocessing
    recorded: Recorded
    limit_db: float | None
    calibration: Calibration | None
    probe: Probe | None = None


class Monitor:
    """One session under watch. ``run`` and ``count`` are for requests, the rest for anybody.

    Making one replays the goldens once; ``close`` ends the thread and writes what was counted last.
    """

    def __init__(self, options: Heartbeat, watched: Watched, session: Session) -> None:
        self._options, self._watched, self._session = options, watched, session
        self._turn, self._counting, self._looking = (threading.Lock() for _ in range(3))
        self._waiting = 0
        self._store: Store | None = None
        self._state = State(place=watched.place)
        self._said = False
        self.unwritten = 0
        self._input = session.inputs[0].name
        known = watched.calibration
        self._range = known.inputs.get(self._input) if known else None
        self._probe = watched.probe
        self._probed = 0
        self._layers = dict.fromkeys(self._probe.ranges if self._probe else (), 0)
        self._images = self._outside = self._in_window = 0
        self._top1 = [0] * len(known.top1 or ()) if known else []
        self._earlier: list[int] = []
        self._ended = threading.Event()
        self._open()
        self.beat()
        self._thread = threading.Thread(target=self._beats, name="edgepipe-heartbeat", daemon=True)

    def start(self) -> Self:
        """Replay from now on, each so many seconds."""
        self._thread.start()
        return self

    def run(self, feeds: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        """The session's outputs, and the seconds that it was waited for."""
        if self._turn.acquire(blocking=False):
            waited = 0.0
        else:
            started = perf_counter()
            with self._counting:
                self._waiting += 1
            self._turn.acquire()
            with self._counting:
                self._waiting -= 1
            waited = perf_counter() - started
        try:
            return self._session.run(feeds), waited
        finally:
            self._turn.release()

    def count(self, tensor: np.ndarray, best: int) -> None:
        """Take note of a live image, as the model took it, and of its first class."""
        inside = True
        if self._range is not None:
            low, high = self._range
            # Comparisons with NaN are false: it is outside as well.
            inside = bool(low <= tensor.min() and tensor.max() <= high)
        with self._counting:
            if (probe := self._probe) is not None:
                probe.keep(tensor)
            self._images += 1
            self._outside += not inside
            if best < len(self._top1):
                self._top1[best] += 1
                self._in_window += 1
                if self._in_window >= WINDOW:
                    self._earlier, self._top1 = self._top1, [0] * len(self._top1)
                    self._in_window = 0

    @property
    def state(self) -> State:
        """What there is so far, with the live counts of this moment."""
        with self._counting:
            outside = {} if self._range is None else {self._input: self._outside}
            live = Live(
                images=self._images,
                outside=outside,
                top1=tuple(self._top1),
                earlier=tuple(self._earlier),
                probed=self._probed,
                layers=dict(self._layers),
            )
        return replace(self._state, live=live)

    @property
    def drift(self) -> Drift | None:
        """How live first classes compare with the calibration's; ``None`` if it isn't packaged."""
        known = self._watched.calibration
        if known is None or known.top1 is None:
            return None
        return drift(known.top1, prometheus.window_of(self.state))

    def beat(self) -> Beat:
        """Replay the goldens now, between two requests, and write the files."""
        found = self._replayed()
        self._look_inside()
        self._state = self._state.after(found)
        self.write()
        return found

    def write(self) -> None:
        """Write both files; a failure is counted, said once, and costs nothing else."""
        if self._store is None:
            self._open()
        if self._store is None:
            return
        state, watched = self.state, self._watched
        text = prometheus.text(state, watched.calibration, watched.limit_db, self.unwritten)
        try:
            self._store.write(state, text)
        except OSError as error:
            self._trouble(error)

    def close(self) -> None:
        """End the thread, write once more, and let the files go."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._look_inside()
        self.write()
        if self._probe is not None:
            self._probe.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _beats(self) -> None:
        while not self._ended.wait(self._options.every_s):
            self.beat()

    def _replayed(self) -> Beat:
        at, started = datetime.now(UTC).isoformat(timespec="seconds"), perf_counter()
        recorded = self._watched.recorded
        try:
            outputs = recorded.outputs(
                self._in_between, self._session.inputs[0], self._watched.preprocessing
            )
        except Exception as error:  # whatever a session raises: requests go on
            return replay.failed(error, at=at)
        limit, bits = self._watched.limit_db, self._state.bits
        seconds = perf_counter() - started
        return replay.judge(outputs, recorded.fp32, limit, bits, at=at, seconds=seconds)

    def _in_between(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A golden's outputs. A lock is not fair by itself: requests that wait go first."""
        ended = perf_counter() + PATIENCE_S
        while self._waiting and perf_counter() < ended:
            sleep(PAUSE_S)
        return self.run(feeds)[0]

    def _look_inside(self) -> None:
        """Run the probe on the live images that were kept for it."""
        with self._looking:
            if self._probe is None:
                return
            try:
                found = self._probe.look()
            except Exception as error:  # whatever a session raises: the model itself goes on
                LOGGER.warning("heartbeat: the probe failed (%s) and is given up", error)
                self._probe.close()
                self._probe = None
                return
        with self._counting:
            self._probed += len(found)
            for layer in (one for outside in found for one in outside):
                self._layers[layer] += 1

    def _open(self) -> None:
        """Take the folder, and go on from what is in it."""
        try:
            store = Store(Path(self._options.folder), self._options.name)
        except OSError as error:
            self._trouble(error)
            return
        try:
            before = store.read().at(self._watched.place)
        except (OSError, BundleError, BundleUnreadable) as error:
            store.close()
            self._trouble(error)
            return
        if before.said:
            LOGGER.warning("heartbeat of %s: %s", self._watched.place.bundle, before.said)
        self._store = store
        self._state = before.joined(self._state)
        self._go_on_from(before.live)

    def _go_on_from(self, live: Live) -> None:
        """Add what an earlier process counted, where it is of the same classes."""
        with self._counting:
            self._images += live.images
            self._outside += live.outside.get(self._input, 0)
            self._probed += live.probed
            for layer in self._layers:
                self._layers[layer] += live.layers.get(layer, 0)
            if len(live.top1) == len(self._top1):
                self._top1 = list(map(sum, zip(self._top1, live.top1, strict=True)))
                self._earlier = self._earlier or list(live.earlier)
                self._in_window = sum(self._top1)

    def _trouble(self, error: Exception) -> None:
        self.unwritten += 1
        if not self._said:
            self._said = True
            text = "heartbeat: %s can't be written (%s); predictions go on, this is said once"
            LOGGER.warning(text, self._options.folder, error)
