"""TUF's documents in a folder and in a real registry: what each attack on them ends with."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.pipeline import release
from edgepipe.pipeline.errors import ExitCode, InputError, IntegrityError, UsageError
from edgepipe.pipeline.shipping.registry import oci
from edgepipe.pipeline.shipping.registry.layout import Layout

from ..sites import TAG, Site, pass_days
from .conftest import Registry

pytest.importorskip("tuf", reason='needs tuf: pip install "edgepipe[registry]"')
Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(params=["layout", "registry"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A site whose release 1 is out: in a folder, and in a registry of its own name."""
    made = Site(tmp_path)
    if request.param == "registry":
        found: Registry = request.getfixturevalue("registry")
        shutil.rmtree(found.storage, ignore_errors=True)
        made = Site(tmp_path, f"oci://{found.host}/a/site", found.storage)
    made.release(made.make(1))
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many days pass."""
    return lambda days: pass_days(monkeypatch, days)


# What goes through ----------------------------------------------------------------------------


def test_a_release_moves_its_tag(site: Site) -> None:
    done = site.release(site.make(2))
    data = site.store.manifest(TAG)
    assert data is not None
    assert oci.digest_of(data) == done.tags[TAG]


def test_a_tag_of_its_own_and_several_models(site: Site) -> None:
    other = site.make(5, name="other")
    site.release(other)
    release(f"{site.address}:beta", bundles=(site.make(6),), keys=site.keys)
    assert site.pull(":other") == 5
    assert site.pull(":beta") == 6
    assert site.pull(f":{TAG}") == 1
    with pytest.raises(UsageError, match="say which: :beta, :other, :tiny"):
        site.pull()
    assert "nothing is released as stable" in site.refused(":stable")


def test_renewing_needs_the_keys_of_snapshot_and_timestamp_alone(
    site: Site, later: Callable[[float], None]
) -> None:
    for role in ("root", "targets"):
        site.key(role).rename(site.folder / role)
    later(8)
    assert "timestamp.json is expired" in site.refused()
    assert site.release().versions == {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}
    assert site.pull() == 1
    later(80)
    done = site.release()
    assert done.versions == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 1}
    assert any(note.startswith("targets.json ends at") for note in done.notes)
    with pytest.raises(InputError, match=r"targets-.*pem: needed to sign targets\.json"):
        site.release(site.make(2))
    assert site.pull() == 1


def test_each_role_can_get_a_new_key(site: Site) -> None:
    assert site.pull() == 1
    for version, role in enumerate(("timestamp", "snapshot", "targets", "root"), 2):
        old = site.key(role)
        done = site.release(rotate=(role,))
        assert done.versions["root"] == version
        assert f"{old}: counts no longer; delete it and its copies" in done.notes
        old.unlink()
        assert site.pull() == 1
    assert site.release(site.make(2)).versions["root"] == 5
    assert site.pull() == 2
    assert site.pull(box="another", root=site.folder / "root.json") == 2
    assert site.pull(box="newer", root=site.keys / "root.json") == 2


def test_a_memory_is_found_by_any_root_that_led_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layout may be plugged in elsewhere, and a box be given the root of today."""
    site = Site(tmp_path)
    site.release(site.make(1))
    monkeypatch.setenv("XDG_STATE_HOME", str(site.folder / "state"))
    old = site.copy("old")
    site.release(site.make(2), rotate=("root",))
    assert site.pull(state=None) == 2
    site.restore(old)
    shutil.copytree(old, site.folder / "stick")
    site.address = f"oci:{site.folder / 'stick'}"
    for root in (site.root, site.keys / "root.json"):
        assert "older than what this machine has seen" in site.refused(state=None, root=root)
    assert len(list((site.folder / "state").rglob("timestamp.json"))) == 1


# What an attacker tries -----------------------------------------------------------------------


def test_a_replayed_old_tag_is_refused(site: Site, edgepipe: Run) -> None:
    site.release(site.make(2))
    old = site.store.manifest("1")
    assert old is not None
    site.store.put_manifest(old, oci.MANIFEST, TAG)
    assert f"is not what is released as {TAG}" in site.refused(f":{TAG}")
    assert "an old or a foreign copy" in site.refused(f"@{oci.digest_of(old)}")
    flags = ("--root", site.root, "--out", site.out, "--all", "--quiet")
    done = edgepipe("pull", f"{site.address}:{TAG}", *flags)
    assert done.returncode == ExitCode.INTEGRITY, done.stderr
    assert len(done.stderr.splitlines()) == 1
    site.release()
    assert site.pull(f":{TAG}") == 2, "a release points the tag to what is signed"


def test_without_a_clock_what_had_ended_when_it_was_signed_is_refused(
    site: Site, later: Callable[[float], None]
) -> None:
    """Who has the keys of snapshot and timestamp can't make an old targets.json last."""
    site.key("targets").unlink()
    later(100)
    site.release()
    said = site.refused(no_clock=True)
    assert "targets.json had ended when timestamp.json was signed" in said


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
@pytest.mark.parametrize("how", ["content", "no signature", "another's", "garbage", "gone"])
def test_each_document_is_held_to_its_keys(site: Site, name: str, how: str) -> None:
    document = json.loads(site.metadata(name))
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    if how == "no signature":
        document["signatures"] = []
    if how == "another's":
        signature = json.loads(site.metadata("1.root.json"))["signatures"]
        document["signatures"] = signature
    data = b"{" if how == "garbage" else json.dumps(document).encode()
    if how == "gone":
        site.blob(oci.digest_of(site.store.manifest(f"tuf-{name}") or b"")).unlink()
        with pytest.raises((IntegrityError, InputError)):
            site.pull()
        return
    site.put(name, data)
    said = site.refused()
    assert any(one in said for one in ("not signed by", "not of one release", "can be believed")), (
        said
    )


def test_a_key_that_was_replaced_signs_nothing_more(site: Site) -> None:
    """Whoever took the key of the timestamp can still sign, and nobody believes it."""
    stolen = Site(site.folder)
    stolen.keys = Path(shutil.copytree(site.keys, site.folder / "stolen"))
    assert site.pull() == 1
    site.release(rotate=("timestamp",))
    assert site.pull() == 1
    from edgepipe.pipeline.shipping.registry.releases.keys import Keys, metadata

    signed = metadata().Metadata.from_bytes(site.metadata("timestamp.json")).signed
    signed.version += 5
    old = metadata().Metadata.from_bytes(site.metadata("1.root.json")).signed
    site.put("timestamp.json", Keys(stolen.keys).sign(signed, old))
    assert "not signed by the keys" in site.refused()


def test_a_manifest_other_than_the_signed_one_is_refused(site: Site) -> None:
    digest = site.release().tags[TAG]
    place = site.blob(digest)
    place.write_bytes(place.read_bytes().replace(b'"tiny"', b'"tinx"'))
    assert "an old or a foreign copy" in site.refused()
    assert f"what is under {digest} is not that" in site.refused(f"@{digest}")
    place.unlink()
    with pytest.raises(InputError, match="released as tiny, is not there"):
        site.pull()


def test_a_refusal_costs_the_box_nothing(site: Site) -> None:
    assert site.pull() == 1
    (kept,) = site.out.glob("*.tar.gz")
    before = kept.read_bytes()
    site.put("timestamp.json", b"{}")
    site.refused()
    assert kept.read_bytes() == before


# What the one who releases must not do --------------------------------------------------------


def test_old_documents_are_not_signed_anew(site: Site) -> None:
    """A registry that hands out an old targets.json doesn't get it into the next release."""
    old = site.copy("old")
    site.release(site.make(2))
    site.restore(old)
    done = site.release()
    assert "older than what this machine has seen" in done.notes[0]
    assert "written anew" in done.notes[0]
    assert any(note.startswith("tiny: sha256:") for note in done.notes), "its bundle is gone"
    assert done.versions == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2}


def test_documents_that_are_gone_are_written_anew(site: Site) -> None:
    site.release(site.make(2), rotate=("root",))
    assert site.pull() == 2
    shutil.rmtree(site.storage)
    site.make(2)
    site.release()
    assert site.pull() == 2
    assert site.pull(box="new") == 2, "with every root"


def test_a_repository_belongs_to_its_keys(site: Site) -> None:
    path = site.make(2)
    with pytest.raises(InputError, match="its releases have keys already"):
        release(site.address, bundles=(path,), keys=site.folder / "others")


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b'{"signed": {}}'])
def test_a_root_that_is_none(site: Site, text: bytes) -> None:
    site.root.write_bytes(text)
    assert "can be believed" in site.refused()
    with pytest.raises(InputError, match="No such file"):
        site.pull(root=site.folder / "nowhere")


def test_a_key_that_is_none(site: Site) -> None:
    site.key("timestamp").write_text("no key")
    with pytest.raises(InputError, match="no private key that can be used"):
        site.release()


def test_a_bundle_needs_its_own_tag(site: Site) -> None:
    path = site.make(2)
    with pytest.raises(UsageError, match="a tag is for one bundle"):
        release(f"{site.address}:a", bundles=(path, path), keys=site.keys)
    with pytest.raises(UsageError, match="two bundles of one name"):
        site.release(path, path)
    with pytest.raises(UsageError, match="is no tag for a bundle"):
        release(f"{site.address}:tuf-x", bundles=(path,), keys=site.keys)


def test_nothing_is_said_where_nothing_was_released(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.make(1)
    other = Site(tmp_path / "other")
    other.release(other.make(1))
    with pytest.raises(InputError, match="says nothing of releases; `edgepipe release`"):
        site.pull(root=other.root)


def test_times_are_utc_and_the_options_of_expiry_count(site: Site) -> None:
    before = datetime.now(UTC)
    done = site.release(site.make(2), timestamp_days=2, snapshot_days=3, targets_days=4)
    days = {
        role: (datetime.fromisoformat(when) - before).total_seconds() / 86400
        for role, when in done.expires.items()
    }
    for role, wanted in (("timestamp", 2), ("snapshot", 3), ("targets", 4), ("root", 365)):
        assert abs(days[role] - wanted) < 0.1


# Cut off --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(6))
def test_a_release_that_is_cut_off_can_be_done_again(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each document that it writes. A box goes on with the old release, or has the new one."""
    site = Site(tmp_path)
    site.release(site.make(1))
    new = site.make(2)
    assert site.pull() == 1
    put = Layout.put_manifest
    left = step

    def cut(store: Layout, *arguments: str, **options: str) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return put(store, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Layout, "put_manifest", cut)
    with contextlib.suppress(KeyboardInterrupt):
        site.release(new, rotate=("timestamp",))
    monkeypatch.undo()
    with contextlib.suppress(IntegrityError):  # the tag is the last to move
        assert site.pull() in (1, 2)
    site.release(new)
    assert site.pull() == 2
    assert site.pull(box="new") == 2
