"""A rollout on its way: a wave's boxes, its gate, and what goes back when it fails.

Whatever happens is in the journal before the next thing does. What a box serves is always asked of
the box: a rollout that was killed goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ....runners.base import RunnerError
from ...progress import Progress
from ...settings.options import seconds
from ..delivery import Delivery, Release
from ..deploy_result import DEPLOYED, REFUSED, ROLLED_BACK, UNCHANGED, Deployment
from . import journal
from .boxes import Box
from .journal import Journal
from .rollout_result import (
    AWAY,
    CHANGED,
    DONE,
    FAILED,
    PASSED,
    STOPPED,
    UNKNOWN,
    WAVE_FAILED,
    BoxState,
    Rollout,
    WaveState,
)
from .rounds import Rounds
from .waves import Tally


class _Lines:
    """A box's progress: what it says stays; how far a transfer is would be lost among others."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        self._progress.say(text)

    def step(self, done: int, total: int, text: str) -> None:
        """Dropped."""


class Run:
    """One rollout. What was noted is what it knows: every decision is made from the journal.

    ``boxes`` are those of the fleet by their names.
    """

    def __init__(
        self,
        notes: Journal,
        path: Path,
        release: Release,
        boxes: Mapping[str, Box],
        rounds: Rounds,
        progress: Progress,
    ) -> None:
        self._journal, self._path, self._release = notes, path, release
        self._boxes, self._rounds = boxes, rounds
        self._progress, self._lines = progress, _Lines(progress)
        self._known = (0, Rollout.of(path, notes.events))

    @property
    def _now(self) -> Rollout:
        """What the journal says by now."""
        events = tuple(self._journal.events)
        count, known = self._known
        if count != len(events):
            known = Rollout.of(self._path, events)
            self._known = len(events), known
        return known

    def _of(self, wave: WaveState) -> list[BoxState]:
        known = {box.name: box for box in self._now.boxes}
        return [known[name] for name in wave.boxes]

    def run(self) -> Rollout:
        """Wave after wave, until one fails."""
        for number in range(1, len(self._now.waves) + 1):
            if self._now.wave(number).state not in (PASSED, WAVE_FAILED):
                self._wave(self._now.wave(number))
            wave = self._now.wave(number)
            if wave.state == WAVE_FAILED:
                return self._stop(wave)
            # Few enough for the gate: they go back alone.
            self._go_back(box for box in self._of(wave) if box.good is False and not box.is_lost)
        self._settle_lost()
        return self._end(DONE, None)

    def resume(self) -> Rollout:
        """Look what the boxes serve, then go on; what has ended settles the boxes it has lost."""
        known = self._now
        self._progress.say(f"{self._path}: going on with {known.bundle}")
        opened = [box for box in known.boxes if box.opened]
        self._rounds.ask(opened, self._look, lambda _box, _reason: None, patient=False)
        return self.run()

    # A wave ----------------------------------------------------------------------------------

    def _wave(self, wave: WaveState) -> None:
        """Deploy, soak, and note whether the next wave may begin."""
        total = len(self._now.waves)
        self._progress.say(f"wave {wave.number} of {total}: {', '.join(wave.boxes)}")
        if not wave.soaked_until:
            self._journal.note(journal.WAVE, wave=wave.number)
        left = [
            box for box in self._of(wave) if not (box.good and box.state in (DEPLOYED, UNCHANGED))
        ]
        self._rounds.ask(left, self._bring, self._lost)
        soak = self._now.settings["soak"]
        if soak and self._failure(wave) is None:
            self._soak(wave, seconds(soak))
            self._rounds.ask([box for box in self._of(wave) if box.good], self._hold, self._lost)
        self._gate(wave)

    def _soak(self, wave: WaveState, soak: float) -> None:
        """Wait for what is left of the soak: one that was interrupted goes on."""
        until = self._now.wave(wave.number).soaked_until
        if until is None:
            until = (journal.now() + timedelta(seconds=soak)).isoformat(timespec="milliseconds")
            self._journal.note(journal.SOAK, wave=wave.number, until=until)
        left = (datetime.fromisoformat(until) - journal.now()).total_seconds()
        self._progress.say(f"wave {wave.number} soaks until {until[11:19]} UTC")
        self._rounds.sleep(min(left, soak))  # whatever has become of the clock

    def _tally(self, wave: WaveState) -> Tally:
        boxes = self._of(wave)
        return Tally(
            good=sum(box.good is True for box in boxes),
            bad=sum(box.good is False for box in boxes),
            away=sum(box.state == AWAY for box in boxes),
            unlimited=sum(box.good is not None and box.max_p99_ms is None for box in boxes),
        )

    def _failure(self, wave: WaveState) -> str | None:
        """Why the wave fails as things are, if it does: its first bad box says more."""
        tally, settings = self._tally(wave), self._now.settings
        if few := tally.too_few(str(settings["threshold"])):
            first = next(box for box in self._of(wave) if box.good is False)
            return f"{few} ({first.name}: {first.reason})"
        return tally.too_many_away(str(settings["max_away"]))

    def _gate(self, wave: WaveState) -> None:
        tally, reason = self._tally(wave), self._failure(wave)
        self._journal.note(
            journal.GATE,
            wave=wave.number,
            passed=reason is None,
            good=tally.good,
            bad=tally.bad,
            away=tally.away,
            unlimited=tally.unlimited,
            share=tally.share,
            reason=reason,
        )
        said = f"failed: {reason}" if reason else f"passed: {tally.good} of {len(wave.boxes)} hold"
        self._progress.say(f"wave {wave.number} {said}")

    # Its end ---------------------------------------------------------------------------------

    def _stop(self, wave: WaveState) -> Rollout:
        """Let go back what is to, and end. Asked again, it goes on with what is left of that."""
        every = self._now.settings["rollback"] == "all"
        concerned = self._now.waves[: wave.number] if every else (wave,)
        # Also those that an earlier wave could do without, as they may be back.
        lost = [box for box in self._now.boxes if box.is_lost]
        back = {box.name: box for one in concerned for box in self._of(one)}
        self._go_back({**back, **{box.name: box for box in lost}}.values())
        reason = f"wave {wave.number}: {wave.reason}"
        if any(box.state == ROLLED_BACK for one in concerned for box in self._of(one)):
            reason += f"; {'all waves' if every else f'wave {wave.number}'} went back"
        return self._end(STOPPED, reason)

    def _settle_lost(self) -> None:
        """Ask once more for the boxes that were away or lost, which may be back."""
        left = [box for box in self._now.boxes if box.state == AWAY or box.is_lost]
        self._rounds.ask(left, self._bring, self._lost, patient=False)
        found = [self._now.box(box.name) for box in left]
        self._go_back(box for box in found if box.good is False and not box.is_lost)

    def _go_back(self, boxes: Iterable[BoxState]) -> None:
        """Let boxes go back that may serve the release since this rollout."""
        found = [box for box in boxes if box.may_serve(self._release.name)]
        if found:
            self._progress.say(f"going back: {', '.join(box.name for box in found)}")
            self._rounds.ask(found, self._back, self._lost)

    def _end(self, outcome: str, reason: str | None) -> Rollout:
        known = self._now
        if (known.outcome, known.reason) != (outcome, reason):
            self._journal.note(journal.ENDED, outcome=outcome, reason=reason)
        return self._now

    # A box -----------------------------------------------------------------------------------

    @contextmanager
    def _asked(self, state: BoxState) -> Iterator[Delivery]:
        """A connection to a box. What the box refuses is noted, and that is its answer."""
        try:
            with self._rounds.connected(self._boxes[state.name], self._lines) as delivery:
                yield delivery
        except RunnerError as error:
            self._note(state, FAILED, state.current, good=False, reason=str(error))

    def _bring(self, box: BoxState) -> None:
        def opened(before: str | None) -> None:
            # Cut off after the switch: what it served before this rollout is in the journal.
            known = self._now.box(box.name)
            if not (known.opened and before == self._release.name):
                self._journal.note(journal.OPENED, box=box.name, before=before)

        with self._asked(box) as delivery:
            done = delivery.bring(self._release, opened)
            state, known = done.outcome, self._now.box(box.name)
            if state == UNCHANGED and known.before != self._release.name:
                state = DEPLOYED  # by a try that was cut off
            self._judge(box, done, state)

    def _hold(self, box: BoxState) -> None:
        with self._asked(box) as delivery:
            done = delivery.hold(self._release)
            self._judge(box, done, CHANGED if done.outcome == REFUSED else box.state)

    def _back(self, box: BoxState) -> None:
        with self._asked(box) as delivery:
            done = delivery.go_back(self._release)
            failed = next((one for one in self._now.waves if one.state == WAVE_FAILED), None)
            reason = box.reason or (f"wave {failed.number} failed" if failed else None)
            if done.reason:
                reason = f"it went back, and what it serves does not hold: {done.reason}"
            state = ROLLED_BACK if done.current == box.before else CHANGED
            self._note(box, state, done.current, reason=reason)

    def _look(self, box: BoxState) -> None:
        """Note what a box serves where it isn't what the journal says."""
        connected = self._rounds.connected(self._boxes[box.name], self._lines)
        with suppress(RunnerError), connected as delivery:
            current = delivery.look()["current"]
            if current == box.current:
                return
            state, said = box.state, {}
            if state in (DEPLOYED, UNCHANGED, REFUSED, ROLLED_BACK):
                # Cut off after the box had gone back, and before that was noted.
                state = ROLLED_BACK if current == box.before else CHANGED
                said = {"good": False, "reason": f"it serves {current or 'nothing'} by now"}
            self._note(box, state, current, **said)

    def _judge(self, box: BoxState, done: Deployment, state: str) -> None:
        """Note what became of a deployment, and whether the release holds there."""
        good, reason = done.outcome in (DEPLOYED, UNCHANGED) and not done.exit_code, done.reason
        limit, p99 = ((done.verification or {}).get(key) for key in ("max_p99_ms", "p99_ms"))
        if good and limit is not None and p99 is None:
            good, reason = (
                False,
                f"{limit:g} ms of p99 are certified, and it was not measured there",
            )
        self._note(box, state, done.current, good=good, reason=reason, p99_ms=p99, max_p99_ms=limit)

    def _lost(self, box: BoxState, reason: str) -> None:
        """A box that is away was not touched, or else nobody knows what it serves."""
        if self._now.box(box.name).opened:
            self._note(box, UNKNOWN, box.current, good=False, reason=reason)
        else:
            self._note(box, AWAY, box.current, reason=reason)

    def _note(self, box: BoxState, state: str, current: str | None, **said: Any) -> None:
        self._journal.note(journal.BOX, box=box.name, state=state, current=current, **said)
        why = f": {said['reason']}" if said.get("reason") else ""
        self._progress.say(f"{box.name}: {state}{why}")
