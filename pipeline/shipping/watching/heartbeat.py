"""heartbeat: a bundle's goldens on its box, again and again, held to the first time.

Each replay has a worker and a session of its own. What was seen stays in a folder, for the next run
of a timer as well as after a reboot; nothing is sent anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from ....runners.base import BundleError, RunnerError
from ....runners.bundles import signature
from ....runners.bundles.bundle import Bundle, read_index, unpacked
from ....runners.bundles.index import GOLDENS
from ....runners.bundles.monitoring import calibration, prometheus, replay
from ....runners.bundles.monitoring.calibration import Calibration
from ....runners.bundles.monitoring.drift import drift
from ....runners.bundles.monitoring.replay import Beat, Recorded
from ....runners.bundles.monitoring.state import Place, State, Store, read
from ....runners.bundles.selection import Choice, choose
from ....runners.bundles.signature import Trust
from ....runners.targets import LOCAL
from ....runners.workers.launch import Worker
from ...cells.plan import python_of
from ...cells.session import audit, interpreter, timeouts_of
from ...errors import EdgepipeError
from ...progress import Progress
from ...settings.load import Config, load
from ...settings.options import seconds, takes
from ...settings.shipping import HeartbeatRequest
from ...storage.atomic import writing
from ..there import check_variant, runners_of
from .heartbeat_result import HeartbeatResult, LiveCounts
from .units import write_units

NAME, OF_APPLICATIONS = "heartbeat", "live.json"


@takes(HeartbeatRequest)
def heartbeat(request: HeartbeatRequest) -> HeartbeatResult:
    """Replay a bundle's goldens here and compare them with the first time, and with the gates.

    Writes ``heartbeat.json`` and ``heartbeat.prom`` into ``folder``. With ``every`` it goes on
    until it is interrupted; with ``units`` it writes a systemd service and timer for itself
    instead. The other keywords are the keys of ``[heartbeat]``. Raises ``BundleError`` for
    a bundle that is not whole or not signed as required, ``RunnerError`` if no runner gives an
    answer (both are counted in the folder first), and ``WorkspaceError`` for a folder that can't be
    written.
    """
    config = load(request.flags())
    folder = request.folder.absolute()
    if request.units is not None:
        return _units(request, folder)
    with _store(folder) as store:
        run = _Run(request.bundle, config, store, request.progress)
        if request.every is None:
            return run.beat()
        return run.go_on(seconds(request.every))


def _units(request: HeartbeatRequest, folder: Path) -> HeartbeatResult:
    """The units, for a bundle that is there and whole."""
    assert request.units is not None
    name = read_index(request.bundle).name
    options = [
        (flag, said)
        for flag, said in (
            ("--runner", request.runner),
            ("--variant", request.variant),
            ("--samples", request.samples),
        )
        if said is not None
    ]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    every_s = seconds(request.every or "5m")
    bundle = request.bundle.absolute()
    written = write_units(request.units, name, bundle, folder, every_s, options)
    paths = tuple(map(str, written))
    return HeartbeatResult(str(bundle), str(folder), None, None, None, {}, None, None, None, paths)


@contextmanager
def _store(folder: Path) -> Iterator[Store]:
    with writing(folder / f"{NAME}.json"):
        store = Store(folder, NAME)
    try:
        yield store
    finally:
        store.close()


@dataclass(frozen=True)
class _Replayed:
    """What a replay gave, and what the bundle says about it."""

    place: Place
    beat: Beat
    limit_db: float | None
    known: Calibration | None


class _Run:
    """The heartbeats of one bundle in one folder, which this process has locked."""

    def __init__(self, path: Path, config: Config, store: Store, progress: Progress) -> None:
        self._path, self._store, self._progress = path, store, progress
        self._settings, self._places = config.heartbeat, config.places
        self._trust = Trust(config.verify.key, config.verify.roots)

    def beat(self) -> HeartbeatResult:
        """Replay once and write the files."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with writing(self._store.path):
            before = self._store.read()
        try:
            found = self._replayed(before, at)
        except (BundleError, RunnerError) as error:
            self._write(before.after(replay.failed(error, at=at)), None, None)
            raise
        state = before.at(found.place).after(found.beat)
        self._write(state, found.known, found.limit_db)
        if state.said and not before.at(found.place).beats:
            self._progress.say(state.said)
        return HeartbeatResult(
            bundle=str(self._path),
            folder=str(self._store.path.parent),
            place=found.place,
            beat=found.beat,
            limit_db=found.limit_db,
            beats=state.beats,
            since=state.since,
            said=state.said,
            live=self._live(found),
            units=(),
        )

    def go_on(self, every_s: float) -> HeartbeatResult:
        """Replay until somebody ends the process; what fails is said and tried again."""
        while True:
            started = time.monotonic()
            try:
                found = self.beat()
                assert found.beat
                reason = f": {found.beat.reason}" if found.beat.reason else ""
                self._progress.say(f"{found.beat.at} {found.beat.verdict}{reason}")
            except (BundleError, RunnerError, EdgepipeError) as error:
                self._progress.say(f"error: {error}")
            time.sleep(max(0.0, started + every_s - time.monotonic()))

    def _replayed(self, before: State, at: str) -> _Replayed:
        settings, target = self._settings, LOCAL
        with unpacked(self._path) as bundle:
            if self._trust:
                signature.check(bundle, self._trust)
            check_variant(bundle, settings.variant)
            count = settings.samples or bundle.index.members[GOLDENS].size
            recorded = Recorded.of(bundle, count)
            known = calibration.of_bundle(bundle)
            host, formats = runners_of(
                bundle.index, settings.runner, self._places, target, self._progress
            )
            choice = choose(bundle.index, host, formats, variant=settings.variant)
            gate = bundle.index.gate(choice.variant, choice.runner, choice.settings.precision)
            limit_db = gate.min_sqnr_db if gate else None
            argv = target.argv(interpreter(target, python_of(choice.runner, self._places)))
            with Worker(argv, timeouts_of(target)) as worker:
                place, beat = _answers(worker, bundle, choice, recorded, before, limit_db, at)
        return _Replayed(place, beat, limit_db, known)

    def _live(self, found: _Replayed) -> LiveCounts | None:
        """What an application left in the folder about this very bundle."""
        state = read(self._store.path.with_name(OF_APPLICATIONS))
        if state is None or state.place is None or state.place.digest != found.place.digest:
            return None
        top1 = found.known.top1 if found.known else None
        told = top1 is not None and len(state.live.top1) == len(top1)
        seen = drift(top1, prometheus.window_of(state)) if told and top1 else None
        live = state.live
        return LiveCounts(live.images, live.outside, seen, live.probed, live.layers)

    def _write(self, state: State, known: Calibration | None, limit_db: float | None) -> None:
        with writing(self._store.path):
            self._store.write(state, prometheus.text(state, known, limit_db, unwritten=0))


def _answers(
    worker: Worker,
    bundle: Bundle,
    choice: Choice,
    recorded: Recorded,
    before: State,
    limit_db: float | None,
    at: str,
) -> tuple[Place, Beat]:
    """The goldens through a session of their own, judged by what the first replay there gave."""
    files = {name: bundle.folder / name for name in choice.files}
    loaded = worker.load(choice.runner, files, choice.settings)
    audit(loaded, choice.settings.allow_fallback)
    started = perf_counter()
    outputs = recorded.outputs(
        lambda feeds: worker.run(feeds).arrays, loaded.inputs[0], bundle.index.preprocessing
    )
    taken = perf_counter() - started
    place = Place(
        bundle=bundle.index.name,
        digest=bundle.digest,
        variant=choice.variant,
        runner=choice.runner,
        runner_version=loaded.runner_version,
        threads=loaded.placement.threads,
        cpu=str(worker.hello["host"]["cpu"]),
        goldens=len(recorded.images),
    )
    first = before.at(place).bits
    return place, replay.judge(outputs, recorded.fp32, limit_db, first, at=at, seconds=taken)
