"""The far end of a deployment: no way back is lost, and no older release slips in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.shipping.receiver import Receiver
from edgepipe.runners.base import SessionError
from edgepipe.runners.bundles.index import INDEX, Index, older

from ... import bundles


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver in a folder that is given relative to where it stands."""
    monkeypatch.chdir(tmp_path)
    receiver = Receiver()
    receiver.open({"folder": "box/models"}, {})
    return receiver


def release(folder: Path, label: str, **changes: Any) -> Path:
    """A whole bundle with something of its own in it."""
    contents = bundles.contents(provenance={"label": label}, **changes)
    return bundles.write(folder / f"{label}.tar.gz", contents)


def about(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def serve(box: Receiver, path: Path, downgrade: bool = False) -> dict[str, Any]:
    """Put a release there and in front, as if it had verified."""
    box.put(about(path), {"piece": path})
    box._verified.add(path.name)
    return box.switch({"name": path.name, "downgrade": downgrade}, {})[0]


def links(state: dict[str, Any]) -> tuple[str | None, str | None]:
    return state["current"], state["previous"]


def there(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "box/models/releases").iterdir())


def test_a_third_release_that_fails_leaves_both_good_ones(box: Receiver, tmp_path: Path) -> None:
    a, b, c, d = (release(tmp_path, label) for label in "abcd")
    for path in (a, b):
        serve(box, path)
        box.tidy({}, {})
    assert links(serve(box, c)) == ("c.tar.gz", "b.tar.gz")
    back = box.switch({"name": "previous"}, {})[0]
    assert links(back) == ("b.tar.gz", "a.tar.gz")
    assert box.tidy({}, {})[0]["removed"] == ["c.tar.gz"]
    assert there(tmp_path) == ["a.tar.gz", "b.tar.gz"]
    assert links(serve(box, d)) == ("d.tar.gz", "b.tar.gz")
    assert box.tidy({}, {})[0]["removed"] == ["a.tar.gz"]


def test_a_first_release_that_fails_leaves_nothing_in_front(box: Receiver, tmp_path: Path) -> None:
    serve(box, release(tmp_path, "a"))
    assert links(box.switch({"name": "previous"}, {})[0]) == (None, None)


def test_a_second_release_that_fails_leaves_the_first(box: Receiver, tmp_path: Path) -> None:
    for label in "ab":
        serve(box, release(tmp_path, label))
    assert links(box.switch({"name": "previous"}, {})[0]) == ("a.tar.gz", None)


@pytest.mark.parametrize(
    ("cut_in", "links_set"), [("serving", 2), ("going back", 1), ("going back", 2)], ids=str
)
def test_a_way_back_that_was_cut_off_is_completed(
    box: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_in: str, links_set: int
) -> None:
    a, b, c = (release(tmp_path, label) for label in "abc")
    for path in (a, b):
        serve(box, path)
    if cut_in == "going back":
        serve(box, c)
    point, done = Receiver._point, []

    def cut(self: Receiver, link: str, name: str | None) -> None:
        if len(done) == links_set:
            raise KeyboardInterrupt
        point(self, link, name)
        done.append(link)

    monkeypatch.setattr(Receiver, "_point", cut)
    with pytest.raises(KeyboardInterrupt):
        serve(box, c) if cut_in == "serving" else box.switch({"name": "previous"}, {})
    monkeypatch.setattr(Receiver, "_point", point)
    assert box._lock is not None
    os.close(box._lock)
    assert links(Receiver().open({"folder": "box/models"}, {})[0]) == ("b.tar.gz", "a.tar.gz")


def test_a_relative_folder_is_one(box: Receiver, tmp_path: Path) -> None:
    path = release(tmp_path, "a")
    box.put(about(path), {"piece": path})
    found = box.verify({"name": path.name, "arguments": []}, {})[0]
    assert "no such file" not in found["error"].lower()
    assert found["code"] != 3
    assert box._folder == tmp_path / "box/models"


def test_a_transfer_goes_on_where_it_was_cut(box: Receiver, tmp_path: Path) -> None:
    path = release(tmp_path, "a")
    data, piece = path.read_bytes(), tmp_path / "piece"
    assert box.put(about(path), {})[0] == {"here": False, "have": 0}
    piece.write_bytes(data[:1000])
    assert box.put(about(path), {"piece": piece})[0] == {"here": False, "have": 1000}
    assert box.put(about(path), {})[0]["have"] == 1000
    piece.write_bytes(data[1000:])
    assert box.put(about(path), {"piece": piece})[0]["here"]
    assert (tmp_path / "box/models/releases/a.tar.gz").read_bytes() == data
    assert there(tmp_path) == ["a.tar.gz"]


def test_an_archive_that_arrives_damaged_is_thrown_away(box: Receiver, tmp_path: Path) -> None:
    path, piece = release(tmp_path, "a"), tmp_path / "piece"
    piece.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(SessionError, match="did not arrive as it was sent"):
        box.put(about(path), {"piece": piece})
    assert there(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ({"release": 2}, {"release": 1}, False),
        ({"release": 1}, {"release": 2}, True),
        ({"release": 2}, {"release": 2}, True),
        ({"release": 2}, {}, False),
        ({}, {"release": 1}, True),
        ({"created": "2026-02-01T00:00:00+00:00"}, {"created": "2026-01-01T00:00:00+00:00"}, False),
        ({"created": "2026-01-01T00:00:00+00:00"}, {"created": "2026-02-01T00:00:00+00:00"}, True),
        ({"created": "2026-01-01T00:00:00+00:00"}, {}, True),
        ({"release": 1, "created": "2026-02-01T00:00:00+00:00"},
         {"release": 2, "created": "2026-01-01T00:00:00+00:00"}, True),
        ({"release": 9, "name": "another"}, {"release": 1}, True),
    ],
)  # fmt: skip
def test_an_older_release_is_served_only_if_that_was_said(
    box: Receiver, tmp_path: Path, old: dict[str, Any], new: dict[str, Any], allowed: bool
) -> None:
    serve(box, release(tmp_path, "old", **old))
    path = release(tmp_path, "new", **new)
    if not allowed:
        with pytest.raises(SessionError, match=r"older|made at"):
            serve(box, path)
    assert links(serve(box, path, downgrade=not allowed)) == ("new.tar.gz", "old.tar.gz")


def test_a_damaged_release_in_front_is_no_reason_to_keep_it(box: Receiver, tmp_path: Path) -> None:
    serve(box, release(tmp_path, "old", release=2))
    (tmp_path / "box/models/releases/old.tar.gz").write_bytes(b"rotten")
    assert serve(box, release(tmp_path, "new", release=1))["current"] == "new.tar.gz"


def test_older_is_said_in_words() -> None:
    def index(**changes: Any) -> Index:
        return bundles.index(bundles.files(), **changes)

    assert older(index(release=1), index(release=2)) == "release 1 is older than 2"
    assert INDEX == "bundle.json"


SYSTEMCTL = """#!/bin/sh
echo "$@" >> log
case $1 in
is-active) test $(grep -c is-active log) -le {lives} || {{ echo failed; exit 3; }};;
show) echo {restarts};;
esac
"""


@pytest.mark.parametrize(
    ("lives", "restarts", "error"),
    [
        (1000, "0", ""),
        (2, "0", "failed"),
        (0, "0", "failed"),
        (1000, "$(grep -c is-active log)", "it ended, and systemd started it again"),
    ],
    ids=["stays up", "dies later", "never up", "started again and again"],
)
def test_a_service_is_watched_after_its_start(
    box: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lives: int,
    restarts: str,
    error: str,
) -> None:
    tool = tmp_path / "systemctl"
    tool.write_text(SYSTEMCTL.format(lives=lives, restarts=restarts))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("edgepipe.pipeline.shipping.receiver.WATCH_SECONDS", 0.01)
    found = box.restart({"unit": "kiosk", "seconds": 0.2}, {})[0]
    assert found["error"] == error
    assert bool(found["code"]) == bool(error)
