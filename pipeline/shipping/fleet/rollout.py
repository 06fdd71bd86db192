"""rollout: a release onto a fleet, wave after wave, each held to a gate before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ....runners.targets import Target
from ...errors import UsageError
from ...settings.load import Config, load
from ...settings.nearest import nearest
from ...settings.options import seconds, takes
from ...settings.shipping import RolloutRequest
from ..delivery import Line, Release, line_to
from . import journal, waves
from .boxes import Box, boxes_of, ordered
from .journal import Journal
from .rollout_result import UNFINISHED, WOULD_ROLL_OUT, Rollout
from .rounds import Rounds
from .run import Run

FILE = "rollout.jsonl"
DECISIVE = ("threshold", "max_away", "soak", "rollback")


@takes(RolloutRequest)
def rollout(request: RolloutRequest) -> Rollout:
    """Bring a bundle onto the boxes of a fleet, wave after wave.

    The keywords are the keys of ``[rollout]``. What became of it is in the result. Raises
    ``UsageError`` for a fleet, waves or a journal that make no sense together, ``BundleError`` for
    a bundle that is not whole, both before any box is reached, and ``WorkspaceError`` if the
    journal can't be written any more: then it stops where it is.
    """
    return roll_out(request, line_to)


def roll_out(request: RolloutRequest, dial: Callable[[Target], Line]) -> Rollout:
    """As ``rollout``; ``dial`` makes the connections."""
    config = load(request.flags())
    boxes = ordered(boxes_of(request.fleet, config), config.rollout.order, request.fleet)
    release = Release.of(request.bundle)
    for box in boxes:
        _check_variant(box, release)
    begun = _begun(release, boxes, config)
    path = request.journal or request.fleet.parent / FILE
    if request.dry_run:
        return _foreseen(path, begun)
    if request.resume and not path.exists():
        raise UsageError(f"{path}: nothing to resume; without --resume a rollout begins")
    with journal.opened(path) as notes:
        if request.resume:
            _check_same(path, notes, begun)
        else:
            _check_finished(path, notes)
            notes.note(journal.BEGUN, **begun)
        section = config.rollout
        rounds = Rounds(section.parallel, seconds(section.wait), dial, request.progress)
        named = {box.name: box for box in boxes}
        run = Run(notes, path, release, named, rounds, request.progress)
        return run.resume() if request.resume else run.run()


def _check_variant(box: Box, release: Release) -> None:
    wanted = box.verify.variant
    if wanted is not None and wanted not in release.index.variants:
        hint = nearest(wanted, release.index.variants)
        raise UsageError(f"box {box.name}: no variant {wanted} in {release.path}; {hint}")


def _begun(release: Release, boxes: Iterable[Box], config: Config) -> dict[str, Any]:
    """The first line of a journal: what is to be done."""
    names = [box.name for box in boxes]
    planned = waves.split(names, config.rollout.waves)
    reached = sum(map(len, planned))
    return {
        "schema_version": journal.SCHEMA_VERSION,
        "bundle": release.name,
        "sha256": release.sha256,
        "release": release.index.release,
        "settings": {name: getattr(config.rollout, name) for name in DECISIVE},
        "waves": planned,
        "rest": names[reached:],
        "labels": {box.name: dict(box.labels) for box in boxes if box.labels},
    }


def _foreseen(path: Path, begun: Mapping[str, Any]) -> Rollout:
    found = Rollout.of(path, [{"event": journal.BEGUN, "at": None, **begun}])
    return replace(found, outcome=WOULD_ROLL_OUT)


def _check_finished(path: Path, notes: Journal) -> None:
    """Raise ``UsageError`` for a journal whose rollout has not ended."""
    if notes.events and Rollout.of(path, notes.events).outcome == UNFINISHED:
        was = notes.events[0]["bundle"]
        raise UsageError(
            f"{path}: the rollout of {was} has not ended; --resume goes on with it, "
            "--journal FILE begins another one"
        )


def _check_same(path: Path, notes: Journal, begun: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for a journal of another bundle, or of other boxes."""
    if not notes.events:
        raise UsageError(f"{path}: nothing to resume; without --resume a rollout begins")
    noted = notes.events[0]
    if noted["sha256"] != begun["sha256"]:
        raise UsageError(
            f"{path}: is about {noted['bundle']}, not {begun['bundle']}; --resume goes on with "
            "the same bundle, --journal FILE begins another rollout"
        )
    there, asked = ({*chain(*one["waves"]), *one["rest"]} for one in (noted, begun))
    if there != asked:
        other = sorted(there ^ asked)[0]
        raise UsageError(
            f"{path}: the fleet has changed: {other} is only in the "
            f"{'journal' if other in there else 'fleet file'}; --resume goes on with the same boxes"
        )
