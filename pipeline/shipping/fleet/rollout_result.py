"""What became of a rollout: made of its journal, while it runs, after a kill, and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import ExitCode, InputError
from ...storage.document import UNWRITTEN, Document
from ..deploy_result import DEPLOYED
from . import journal
from .journal import Event

# Of a rollout.
DONE, STOPPED, UNFINISHED, WOULD_ROLL_OUT = "done", "stopped", "unfinished", "would roll out"
# Of a box, beside what becomes of a deployment.
NOT_REACHED, UNDER_WAY, AWAY, UNKNOWN = "not reached", "under way", "away", "unknown"
FAILED, CHANGED = "failed", "changed since"
# Of a wave.
PASSED, WAVE_FAILED, SOAKING = "passed", "failed", "soaking"


@dataclass(frozen=True)
class BoxState:
    """A box of the fleet.

    ``state`` is what became of its deployment ("deployed", "unchanged", "refused", "rolled back"),
    or "not reached" yet, "under way", "away" (skipped, nothing changed there), "unknown" (it was
    lost in the middle), "failed" (it could not be asked) or "changed since" (it serves something
    else by now, and not by this rollout). ``good`` says whether the release held there, ``null``
    before that is known. ``before`` is what it served before the rollout, ``current`` what it was
    last seen to serve. Times in ms; ``max_p99_ms`` is ``None`` where no limit is certified.
    ``at`` is when that was noted (UTC).
    """

    name: str
    wave: int
    labels: Mapping[str, str | int]
    state: str = NOT_REACHED
    good: bool | None = None
    before: str | None = None
    current: str | None = None
    opened: bool = field(default=False, metadata=UNWRITTEN)
    p99_ms: float | None = None
    max_p99_ms: float | None = None
    reason: str | None = None
    at: str | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it was touched, and gave no answer since."""
        return self.state in (UNKNOWN, UNDER_WAY)

    def may_serve(self, release: str) -> bool:
        """Whether it may serve a release by this rollout."""
        touched = self.is_lost or self.state in (DEPLOYED, FAILED)
        return self.opened and touched and self.before != release


@dataclass(frozen=True)
class WaveState:
    """A wave: "not reached", "under way", "soaking", "passed" or "failed", and why.

    ``share`` is of the boxes that were tried, ``good`` + ``bad``, those on which the release holds;
    ``unlimited`` of them had no limit of the p99 to be held to.
    """

    number: int
    boxes: tuple[str, ...]
    state: str = NOT_REACHED
    good: int = 0
    bad: int = 0
    away: int = 0
    unlimited: int = 0
    share: float | None = None
    reason: str | None = None
    soaked_until: str | None = None


@dataclass(frozen=True)
class Rollout(Document):
    """How far a rollout is.

    ``outcome``: "done", "stopped" (a wave failed, and went back), "unfinished" (it runs, or was
    killed) or "would roll out" (a dry run). ``settings`` are those that decide: threshold,
    max_away, soak, rollback. ``began`` and ``ended`` are UTC.
    """

    MADE_BY = "edgepipe rollout"
    DERIVED = ("notes",)

    journal: str
    bundle: str
    sha256: str
    release: int
    outcome: str
    reason: str | None
    settings: Mapping[str, str | None]
    began: str | None
    ended: str | None
    waves: tuple[WaveState, ...]
    boxes: tuple[BoxState, ...]

    @classmethod
    def of(cls, path: object, events: Sequence[Event]) -> Rollout:
        """What a rollout's events say. Raises ``InputError`` for events that make no sense."""
        try:
            return cls._of(path, events)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{path}: no journal of a rollout ({error!r}); choose another --journal"
            ) from error

    @classmethod
    def _of(cls, path: object, events: Sequence[Event]) -> Rollout:
        begun = events[0]
        waves = {n: WaveState(n, tuple(names)) for n, names in enumerate(begun["waves"], 1)}
        boxes = {
            name: BoxState(name, number, begun["labels"].get(name, {}))
            for number, wave in waves.items()
            for name in wave.boxes
        }
        boxes |= {name: BoxState(name, 0, begun["labels"].get(name, {})) for name in begun["rest"]}
        outcome, reason, ended = UNFINISHED, None, None
        for event in events[1:]:
            kind = event["event"]
            if kind in (journal.OPENED, journal.BOX):
                boxes[event["box"]] = _next_box(boxes[event["box"]], event)
            elif kind == journal.ENDED:
                outcome, reason, ended = event["outcome"], event["reason"], event["at"]
            else:
                waves[event["wave"]] = _next_wave(waves[event["wave"]], event)
        return cls(
            journal=str(path),
            bundle=begun["bundle"],
            sha256=begun["sha256"],
            release=begun["release"],
            outcome=outcome,
            reason=reason,
            settings=begun["settings"],
            began=begun["at"],
            ended=ended,
            waves=tuple(waves.values()),
            boxes=tuple(boxes.values()),
        )

    def box(self, name: str) -> BoxState:
        """One of the boxes."""
        return next(box for box in self.boxes if box.name == name)

    def wave(self, number: int) -> WaveState:
        """One of the waves, which are counted from 1 on."""
        return self.waves[number - 1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known besides: boxes without a limit, those that nothing is known of."""
        found = []
        tried = [box for box in self.boxes if box.good is not None]
        unlimited = sum(box.max_p99_ms is None for box in tried)
        if unlimited:
            found.append(
                f"no p99 is certified for {unlimited} of {len(tried)} boxes: times were not judged "
                "there; package --max-p99 certifies one"
            )
        for state, means in (
            (AWAY, "skipped, nothing changed there"),
            (UNKNOWN, "lost in the middle; --resume settles them once they are back"),
            (FAILED, "could not be asked, or refused to answer"),
            (CHANGED, "something else was deployed there meanwhile"),
        ):
            names = [box.name for box in self.boxes if box.state == state]
            if names:
                found.append(f"{state}: {', '.join(names)} ({means})")
        rest = sum(box.wave == 0 for box in self.boxes)
        if rest:
            found.append(f"{rest} boxes are in no wave: the last one does not reach all of them")
        return tuple(found)

    @property
    def exit_code(self) -> ExitCode:
        """What a shell sees: 1 for a wave that failed, 5 for boxes that were or are lost."""
        if self.outcome == UNFINISHED:
            return ExitCode.INCONCLUSIVE
        if self.outcome == STOPPED:
            failed = next(wave for wave in self.waves if wave.state == WAVE_FAILED)
            return ExitCode.GATE_FAILED if failed.bad else ExitCode.RUNNER
        lost = any(box.state == UNKNOWN for box in self.boxes)
        return ExitCode.RUNNER if lost else ExitCode.OK


def _next_box(box: BoxState, event: Event) -> BoxState:
    if event["event"] == journal.OPENED:
        before = event["before"]
        return replace(
            box, state=UNDER_WAY, before=before, current=before, opened=True, at=event["at"]
        )
    said = {
        name: event[name]
        for name in ("state", "good", "current", "reason", "p99_ms", "max_p99_ms")
        if name in event
    }
    return replace(box, **said, at=event["at"])


def _next_wave(wave: WaveState, event: Event) -> WaveState:
    if event["event"] == journal.WAVE:
        return replace(wave, state=UNDER_WAY)
    if event["event"] == journal.SOAK:
        return replace(wave, state=SOAKING, soaked_until=event["until"])
    names = ("good", "bad", "away", "unlimited", "share", "reason")
    state = PASSED if event["passed"] else WAVE_FAILED
    return replace(wave, state=state, **{name: event[name] for name in names})
