"""release, and pull by it: a box gets what is signed as the newest. tests/registry has the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepipe.pipeline import pull, push
from edgepipe.pipeline.errors import InputError, Refused

from ...sites import TAG, Site, bundle, pass_days

pytest.importorskip("tuf", reason='needs tuf: pip install "edgepipe[registry]"')


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose release 1 is out."""
    made = Site(tmp_path)
    made.release(made.make(1))
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many days pass."""
    return lambda days: pass_days(monkeypatch, days)


def test_a_box_gets_the_newest_release(site: Site) -> None:
    assert site.pull() == 1
    done = site.release(site.make(2))
    assert site.pull() == 2
    assert site.pull(f":{TAG}") == 2
    assert site.pull(f"@{done.tags[TAG]}") == 2
    assert done.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_the_first_release_makes_keys_and_says_which_to_put_away(tmp_path: Path) -> None:
    site = Site(tmp_path)
    done = site.release(site.make(1))
    assert len(done.made) == 4
    assert "keep the keys of root and targets where no network reaches" in done.notes[0]
    for path in map(Path, done.made):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_an_old_copy_of_the_repository_is_refused(site: Site) -> None:
    old = site.copy("old")
    site.release(site.make(2))
    assert site.pull() == 2
    site.restore(old)
    assert "older than what this machine has seen" in site.refused()
    assert "older than what this machine has seen" in site.refused(no_clock=True)


def test_a_repository_that_is_frozen_is_found_out(
    site: Site, later: Callable[[float], None]
) -> None:
    assert site.pull() == 1
    later(6.9)
    assert site.pull() == 1
    later(7.1)
    assert "timestamp.json is expired" in site.refused()
    assert site.pull(no_clock=True) == 1, "without a clock nobody can tell"


@pytest.mark.parametrize("name", ["1.snapshot.json", "1.targets.json"])
def test_documents_of_two_releases_are_not_mixed(site: Site, name: str) -> None:
    old = site.metadata(name)
    site.release(site.make(2))
    site.put(name.replace("1", "2", 1), old)
    assert "not of one release" in site.refused()


def test_a_root_by_other_keys_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = Site(tmp_path / "theirs")
    theirs.release(theirs.make(9))
    assert "not signed by the keys" in site.refused(root=theirs.root)
    document = json.loads(theirs.metadata("1.root.json"))
    document["signed"]["version"] = 2
    site.put("2.root.json", json.dumps(document).encode())
    assert "not signed by the keys" in site.refused()


def test_an_older_bundle_is_not_released_by_mistake(site: Site) -> None:
    two, one = site.make(2), site.folder / "made-1" / "whole.tar.gz"
    site.release(two)
    with pytest.raises(Refused, match="release 1 is older than 2"):
        site.release(one)
    assert site.pull() == 2
    site.release(one, allow_downgrade=True)
    assert site.pull() == 1, "it is signed later: a box goes by that"


def test_what_is_not_pushed_is_not_released(site: Site) -> None:
    path = bundle(site.folder / "new", release=2)
    with pytest.raises(InputError, match="not there yet; `edgepipe push oci:"):
        site.release(path)
    push(site.address, path)
    part = pull(site.address, out=site.folder / "part", variants=("fp32",)).path
    with pytest.raises(InputError, match="a part of its bundle"):
        site.release(part)
