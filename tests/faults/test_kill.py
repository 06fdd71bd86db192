"""An export that is killed at any moment leaves the old state or the new one (FAULTS 19)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepipe.pipeline.storage.workspace import Workspace

from .conftest import KILL_MOMENTS, Command, Small, eventually, snapshot

Start = Callable[..., Command]
# A workspace is killed this often in a row, each run finding what the killed ones left, before
# an export is allowed to complete.
KILLS_IN_A_ROW = 4


def moments(count: int, seconds: float) -> list[float]:
    """Moments spread evenly over a run, each anywhere in its share of it, in a random order."""
    shuffled = random.Random(19)
    shares = [seconds * (number + shuffled.random()) / count for number in range(count)]
    shuffled.shuffle(shares)
    return shares


def recovered(root: Path) -> dict[str, bytes]:
    """The state that the next command finds, all hashes checked."""
    place = Workspace(root, "mobilenet_v2")
    with place.locked("edgepipe bench", pytest.fail):
        if place.manifest() is not None:
            place.verified()
    return snapshot(place.folder)


def complete(start: Start, *arguments: str | Path) -> None:
    command = start(*arguments)
    assert command.process.wait() == 0, command.said


@pytest.mark.long
def test_export_killed_at_any_moment(
    request: pytest.FixtureRequest, small: Small, start: Start, tmp_path: Path
) -> None:
    # pytest has not seen the option where it was called on the whole suite.
    count = request.config.getoption("--kill-moments", KILL_MOMENTS) or KILL_MOMENTS
    root, clean = tmp_path / "artifacts", small.files
    export = ("export", *small.settings, "--workspace", root)
    state: dict[str, bytes] = {}
    for number, moment in enumerate(moments(count, small.seconds), start=1):
        # Once the workspace is complete, only --force still has something to do.
        command = start(*export, *(["--force"] if state else []))
        if eventually(lambda: command.process.poll() is not None, seconds=moment):  # noqa: B023
            assert command.process.returncode == 0, command.said
        command.kill()
        after = recovered(root)
        assert after in (state, clean), f"killed after {moment:.2f} of {small.seconds:.2f} s"
        state = after
        if number % KILLS_IN_A_ROW == 0 or number == count:
            complete(start, *export, *(["--force"] if state else []))
            state = recovered(root)
            assert state == clean
