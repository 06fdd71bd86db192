"""What a workspace promises: one state at a time, proven by hashes, whatever happens to a run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.errors import IntegrityError, WorkspaceError
from edgepipe.pipeline.storage.manifest import Artifact, Manifest, StageRecord, digest
from edgepipe.pipeline.storage.workspace import (
    COMMIT,
    HOLDER,
    LOCK,
    MANIFEST,
    STAGING,
    Transaction,
    Workspace,
)

# Newer Pythons warn of a fork in a process with threads; these children only touch files.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

Files = Mapping[str, bytes]
OLD: Files = {"kept.bin": b"kept" * 100, "changed.bin": b"old" * 500, "dropped.bin": b"dropped"}
NEW: Files = {"kept.bin": b"kept" * 100, "changed.bin": b"new" * 700, "added.bin": b"added" * 50}


def silent(_text: str) -> None:
    """Take a message and drop it."""


def store(place: Workspace, files: Files, force: bool = False) -> Manifest:
    """What an export does: stage the files that differ, commit them as one stage's artifacts."""
    with place.locked("edgepipe export", silent):
        before = Manifest() if force else place.manifest() or Manifest()
        with Transaction(place, before) as transaction:
            for name, data in files.items():
                artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data))
                if before.artifacts.get(name) != artifact:
                    transaction.write(name, data)
            depends = {"files": sorted(files)}
            transaction.stages["make"] = StageRecord(
                "make", digest(depends), depends, tuple(files), {"made": True}
            )
            return transaction.commit(model={"name": "tiny"})


def recover(place: Workspace) -> None:
    """Open the workspace, which is how every command starts."""
    with place.locked("edgepipe bench", silent):
        pass


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, which stays for good."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace in the state ``OLD``."""
    workspace = Workspace(tmp_path / "artifacts", "tiny")
    store(workspace, OLD)
    return workspace


@pytest.fixture
def new_state(tmp_path: Path) -> dict[str, bytes]:
    """The files of a workspace that was never in another state than ``NEW``."""
    workspace = Workspace(tmp_path / "clean", "tiny")
    store(workspace, NEW)
    return snapshot(workspace.folder)


# Children, and what can happen to them ------------------------------------------------------

CHANGES = frozenset(
    {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
)
RAISED, KILLED, UNDISTURBED = 76, 77, 78


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, and the error that it raised."""

    status: int
    error: str


def in_child(action: Callable[[], object]) -> Ended:
    """Run ``action`` in a process of its own and wait for it."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            action()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
            os._exit(RAISED)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        error = pipe.read().decode()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), error)


def disturbed(action: Callable[[], object], folder: Path, moment: int, kill: bool) -> Ended:
    """Run ``action`` in a child whose ``moment``-th change to the disk does not happen.

    ``kill``: the power fails there, and files that were not synced lose half of themselves.
    Otherwise the system refuses that one change with EIO.
    """
    changes = count(1)
    on_disk = {path.stat().st_ino for path in folder.rglob("*")}
    sync = os.fsync

    def disturb() -> None:
        if kill:
            for path in folder.rglob("*"):
                if path.is_file() and path.stat().st_ino not in on_disk:
                    os.truncate(path, path.stat().st_size // 2)
            os._exit(KILLED)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and next(changes) == moment:
            disturb()

    def fsync(descriptor: int) -> None:
        if next(changes) == moment:
            disturb()
        sync(descriptor)
        on_disk.add(os.fstat(descriptor).st_ino)

    def child() -> None:
        os.fsync = fsync
        sys.addaudithook(hook)
        action()
        if next(changes) <= moment:
            os._exit(UNDISTURBED)

    return in_child(child)


def disturbances(action: Callable[[], object], folder: Path, kill: bool = True) -> Iterator[Ended]:
    """Disturb ``action`` at its first change to the disk, its second, ... until there is none.

    Whenever the next one is asked for, ``folder`` is as it was before the first.
    """
    before = Path(tempfile.mkdtemp(dir=folder.parent.parent)) / folder.name
    if folder.exists():
        shutil.copytree(folder, before)
    for moment in range(1, 1000):
        ended = disturbed(action, folder, moment, kill)
        if ended.status == UNDISTURBED:
            return
        yield ended
        shutil.rmtree(folder, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, folder)
    pytest.fail("never ends undisturbed")


# One state or the other -----------------------------------------------------------------------


@pytest.fixture(params=[{}, OLD], ids=["first commit", "later commit"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    """A workspace before the commit under test: empty, or in the state ``OLD``."""
    place = Workspace(tmp_path / "artifacts", "tiny")
    if request.param:
        store(place, request.param)
    return place


def test_killed_commit_leaves_old_or_new_state(before: Workspace, new_state: Files) -> None:
    old_state = snapshot(before.folder)
    became_new = []
    for ended in disturbances(lambda: store(before, NEW), before.folder):
        assert ended.status == KILLED
        recover(before)
        state = snapshot(before.folder)
        assert state in (old_state, new_state)
        if state:
            before.verified()
        became_new.append(state == new_state)
    assert became_new == sorted(became_new), "once new, always new"
    assert set(became_new) == {False, True}


def test_refused_change_leaves_old_or_new_state_and_says_so(
    before: Workspace, new_state: Files
) -> None:
    old_state = snapshot(before.folder)
    seen = []
    for ended in disturbances(lambda: store(before, NEW), before.folder, kill=False):
        recover(before)
        state = snapshot(before.folder)
        assert state in (old_state, new_state)
        if ended.status == RAISED:
            assert ended.error.startswith("WorkspaceError: can't write ")
            assert state == old_state or "unchanged" not in ended.error
        else:  # only clean-up was refused, which the next run does
            assert state == new_state
        seen.append(ended.status)
    assert RAISED in seen


def test_recovery_can_be_killed_as_well(place: Workspace, new_state: Files) -> None:
    finished = 0
    for _first in disturbances(lambda: store(place, NEW), place.folder):
        if (place.folder / COMMIT).is_dir():
            for _second in disturbances(lambda: recover(place), place.folder):
                recover(place)
                assert snapshot(place.folder) == new_state
                finished += 1
    assert finished


def test_commit_removes_what_no_stage_makes_any_more(place: Workspace) -> None:
    manifest = store(place, NEW)
    assert set(manifest.artifacts) == set(NEW)
    assert set(snapshot(place.folder)) == {*NEW, MANIFEST}
    place.verified()


def test_commit_without_changes_writes_nothing(place: Workspace) -> None:
    before = (place.folder / MANIFEST).stat()
    store(place, OLD)
    after = (place.folder / MANIFEST).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_transaction_reads_what_it_wrote_and_what_it_kept(place: Workspace) -> None:
    with (
        place.locked("edgepipe export", silent),
        Transaction(place, place.verified()) as transaction,
    ):
        transaction.write("changed.bin", b"newer")
        assert transaction.path("changed.bin").read_bytes() == b"newer"
        assert transaction.artifact("changed.bin").size == len(b"newer")
        assert transaction.path("kept.bin").read_bytes() == OLD["kept.bin"]
        assert (place.folder / "changed.bin").read_bytes() == OLD["changed.bin"]


def test_abandoned_transaction_leaves_no_trace(place: Workspace) -> None:
    old_state = snapshot(place.folder)
    with place.locked("edgepipe export", silent):
        with Transaction(place, place.verified()) as transaction:
            transaction.write("changed.bin", b"newer")
        place.verified()
    assert snapshot(place.folder) == old_state
    assert not (place.folder / STAGING).exists()


def test_opening_removes_what_a_killed_run_left(place: Workspace) -> None:
    old_state = snapshot(place.folder)
    (place.folder / STAGING / "folder").mkdir(parents=True)
    (place.folder / STAGING / "fp32.onnx").write_bytes(b"half")
    (place.folder / ".bench.json.tmp").write_bytes(b"half")
    (place.folder / HOLDER).write_text("process 1 (edgepipe export)")
    recover(place)
    assert snapshot(place.folder) == old_state
    place.verified()


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "refused"])
def test_result_is_written_whole_or_not_at_all(place: Workspace, kill: bool) -> None:
    old, new = b"old result", b"a result that is longer" * 50
    place.write_result("bench.json", old)
    seen = set()
    for ended in disturbances(lambda: place.write_result("bench.json", new), place.folder, kill):
        assert ended.status == (KILLED if kill else RAISED)
        recover(place)
        place.verified()
        seen.add((place.folder / "bench.json").read_bytes())
        assert set(snapshot(place.folder)) == {*OLD, MANIFEST, "bench.json"}
    assert seen == {old, new}


# Hashes (FAULTS 24) ---------------------------------------------------------------------------


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


EDITS: dict[str, Callable[[Path], object]] = {
    "byte flipped": flip_a_byte,
    "cut short": lambda path: os.truncate(path, 3),
    "emptied": lambda path: path.write_bytes(b""),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "link": replace_by_link,
    "dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "missing": Path.unlink,
}
GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "binary": b"\x80\xff\x00",
    "nested": b"[" * 100_000,
    **{text: text.encode() for text in ("{}", "[]", "null", "7", '"text"', '{"artifacts": 7}')},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_artifact_is_named_and_can_be_made_again(
    place: Workspace, edit: Callable[[Path], object]
) -> None:
    old_state = snapshot(place.folder)
    edit(place.folder / "changed.bin")
    with pytest.raises(IntegrityError, match=r"changed\.bin.*--force"):
        place.verified()
    store(place, OLD, force=True)
    assert snapshot(place.folder) == old_state
    place.verified()


@pytest.mark.parametrize("name", ["changed.bin", MANIFEST])
def test_folder_in_the_place_of_a_file_is_named_and_never_deleted(
    place: Workspace, name: str
) -> None:
    old_state = snapshot(place.folder)
    (place.folder / name).unlink()
    (place.folder / name).mkdir()
    for force in (False, True):
        with pytest.raises((IntegrityError, WorkspaceError), match=re.escape(name)):
            store(place, NEW, force)
        with pytest.raises(IntegrityError, match=re.escape(name)):
            place.verified()
    (place.folder / name).rmdir()
    store(place, OLD, force=True)
    assert snapshot(place.folder) == old_state


def test_export_may_make_a_missing_artifact_but_not_overlook_an_edited_one(
    place: Workspace,
) -> None:
    manifest = place.verified()
    (place.folder / "kept.bin").unlink()
    place.check_unaltered(manifest)
    flip_a_byte(place.folder / "changed.bin")
    with pytest.raises(IntegrityError, match=r"changed\.bin"):
        place.check_unaltered(manifest)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "fp16.onnx", "manifest.json.bak"])
@pytest.mark.parametrize(
    "add",
    [lambda path: path.write_text("x"), Path.mkdir, lambda path: path.symlink_to("nowhere")],
    ids=["file", "folder", "dangling link"],
)
def test_extra_file_is_named(place: Workspace, add: Callable[[Path], object], name: str) -> None:
    add(place.folder / name)
    with pytest.raises(IntegrityError, match=f"{name}: not in the manifest"):
        place.verified()


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_manifest_is_named_and_can_be_made_again(place: Workspace, garbage: bytes) -> None:
    old_state = snapshot(place.folder)
    (place.folder / MANIFEST).write_bytes(garbage)
    with pytest.raises(IntegrityError, match=r"manifest\.json.*--force"):
        place.verified()
    store(place, OLD, force=True)
    assert snapshot(place.folder) == old_state
    place.verified()


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a JSON document has values."""
    yield path
    inner = {}
    if isinstance(value, dict):
        inner = value
    elif isinstance(value, list):
        inner = dict(enumerate(value))
    for key, part in inner.items():
        yield from places(part, (*path, key))


def test_every_edit_of_the_manifest_shows(place: Workspace) -> None:
    text = (place.folder / MANIFEST).read_text()
    for *path, last in filter(None, places(json.loads(text))):
        for removed in (False, True):
            document = section = json.loads(text)
            for key in path:
                section = section[key]
            if removed:
                del section[last]
            else:
                section[last] = "edited"
            (place.folder / MANIFEST).write_text(json.dumps(document))
            with pytest.raises((IntegrityError, WorkspaceError), match=r"manifest\.json"):
                place.verified()


def test_every_truncation_of_the_manifest_shows(place: Workspace) -> None:
    data = (place.folder / MANIFEST).read_bytes().rstrip()
    for length in range(len(data)):
        (place.folder / MANIFEST).write_bytes(data[:length])
        with pytest.raises(IntegrityError, match=r"manifest\.json"):
            place.verified()


def test_manifest_of_another_schema_is_not_called_damaged(place: Workspace) -> None:
    document = json.loads((place.folder / MANIFEST).read_text())
    (place.folder / MANIFEST).write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(WorkspaceError, match="schema 99"):
        place.verified()


def test_empty_workspace_says_what_to_do(tmp_path: Path) -> None:
    place = Workspace(tmp_path, "tiny")
    with (
        place.locked("edgepipe bench", silent),
        pytest.raises(WorkspaceError, match="run `edgepipe export`"),
    ):
        place.verified()


# The lock (FAULTS 22) -------------------------------------------------------------------------


@contextmanager
def held_by_child(place: Workspace) -> Iterator[tuple[int, Callable[[], None]]]:
    """A child that holds the lock: its process id, and a call that lets it write and leave."""
    ready, is_ready = os.pipe()
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.close(tell)
            with place.locked("edgepipe export", silent):
                os.write(is_ready, b"!")
                os.read(told, 1)
                (place.folder / "kept.bin").write_bytes(b"written by the holder")
        finally:
            os._exit(0)
    os.close(is_ready)
    os.close(told)
    assert os.read(ready, 1), "the child never got the lock"

    def let_go() -> None:
        os.write(tell, b"!")

    try:
        yield pid, let_go
    finally:
        os.close(ready)
        os.close(tell)
        os.waitpid(pid, 0)


def test_second_process_says_who_holds_the_lock_and_waits(place: Workspace) -> None:
    said: list[str] = []
    with held_by_child(place) as (pid, let_go):

        def say(text: str) -> None:
            said.append(text)
            let_go()

        with place.locked("edgepipe bench", say):
            content = (place.folder / "kept.bin").read_bytes()
    assert content == b"written by the holder"
    assert len(said) == 1
    assert str(place.folder) in said[0]
    assert f"process {pid} (edgepipe export)" in said[0]


def test_lock_of_a_killed_process_does_not_block(place: Workspace) -> None:
    old_state = snapshot(place.folder)
    said: list[str] = []
    with held_by_child(place) as (pid, _):
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with place.locked("edgepipe bench", said.append):
            place.verified()
    assert not said
    assert snapshot(place.folder) == old_state


# Disks that are full or read-only (FAULTS 20, 21) ---------------------------------------------


def with_little_space(limit: int, action: Callable[[], object]) -> Ended:
    """Run ``action`` in a child that can't write a file of more than ``limit`` bytes."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        action()

    return in_child(limited)


@pytest.mark.parametrize("limit", [0, 10, 100, 1000, 2000])
def test_full_disk_leaves_what_was_there(place: Workspace, limit: int) -> None:
    old_state = snapshot(place.folder)
    place.write_result("bench.json", b"old result")
    big = {**NEW, "added.bin": b"added" * 1000}
    for action in (lambda: store(place, big), lambda: store(place, big, force=True)):
        ended = with_little_space(limit, action)
        assert ended.error.startswith("WorkspaceError: can't write ")
        assert "limit on the size of a file" in ended.error
        recover(place)
        assert snapshot(place.folder) == {**old_state, "bench.json": b"old result"}
    ended = with_little_space(limit, lambda: place.write_result("bench.json", b"new" * 1000))
    assert ended.error.startswith("WorkspaceError: can't write ")
    assert snapshot(place.folder) == {**old_state, "bench.json": b"old result"}
    place.verified()


def test_full_disk_names_the_file_that_did_not_fit(place: Workspace) -> None:
    ended = with_little_space(1000, lambda: store(place, NEW))
    assert str(place.folder / "changed.bin") in ended.error


OPEN = """
import sys
from pathlib import Path
from edgepipe.pipeline.errors import WorkspaceError
from edgepipe.pipeline.storage.workspace import Workspace

try:
    with Workspace(Path(sys.argv[1]), "tiny").locked("edgepipe export", print):
        print("opened")
except WorkspaceError as error:
    print("refused:", error)
"""
WITHOUT = "-dac_override,-dac_read_search"
BOUND = ["setpriv", f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}"]


def opened_without_privileges(root: Path) -> str:
    """What a process says about opening a workspace that minds the permissions of files."""
    command = [sys.executable, "-c", OPEN, str(root)]
    if os.geteuid() == 0:
        if not shutil.which("setpriv") or subprocess.run([*BOUND, "true"]).returncode:
            pytest.skip("running as root, and setpriv can't drop its privileges")
        command = [*BOUND, *command]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_read_only_root_is_refused(tmp_path: Path) -> None:
    with read_only(tmp_path):
        said = opened_without_privileges(tmp_path)
    assert said.startswith(f"refused: can't write {tmp_path / 'tiny'}: Permission denied")


@pytest.mark.parametrize("left_over", [(), (HOLDER,)], ids=["clean", "after a killed run"])
def test_read_only_workspace_is_refused(place: Workspace, left_over: tuple[str, ...]) -> None:
    for name in left_over:
        (place.folder / name).write_text("process 1 (edgepipe export)")
    with read_only(place.folder):
        said = opened_without_privileges(place.folder.parent)
    assert said.startswith(f"refused: can't write {place.folder}: Permission denied")


@pytest.mark.parametrize("root", ["/proc/edgepipe", "/dev/null", "/dev/null/artifacts"])
def test_root_that_can_hold_no_folder_is_refused(root: str) -> None:
    place = Workspace(Path(root), "tiny")
    with pytest.raises(WorkspaceError, match=f"can't write {root}/tiny"):
        recover(place)
