"""The journal: nothing of it is lost, nothing of anybody else's is overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import status, write_rollout
from edgepipe.pipeline.errors import InputError, UsageError, WorkspaceError
from edgepipe.pipeline.report.text import shipping
from edgepipe.pipeline.shipping.fleet import journal
from edgepipe.pipeline.shipping.fleet.rollout_result import Rollout

from .stage import Stage, events, hurry

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Three boxes, the second of which does not take the new release."""
    hurry(monkeypatch)
    monkeypatch.chdir(tmp_path)
    made = Stage(tmp_path, ("a <b>", "b|c", "c"), said={("b|c", "new"): 1})
    made.serve_old()
    return made


def test_the_status_is_what_the_rollout_said(stage: Stage) -> None:
    result = stage.roll_out(waves="1,100%")
    assert status(stage.journal).to_json() == result.to_json()
    assert Rollout.from_json(result.to_json(), "here").to_json() == result.to_json()


def test_every_part_of_a_journal_has_a_status(stage: Stage, tmp_path: Path) -> None:
    """Cut at any byte, as a kill leaves it: a table and a page of what is known."""
    stage.roll_out(waves="1,100%")
    data = stage.journal.read_bytes()
    first = data.index(b"\n") + 1
    for end in range(first, len(data) + 1, 97):
        stage.journal.write_bytes(data[:end])
        found = status(stage.journal)
        assert found.outcome == ("stopped" if end == len(data) else "unfinished")
        assert "a <b>" in shipping.rollout(found)
    for end in (0, 5, first - 1):
        stage.journal.write_bytes(data[:end])
        with pytest.raises(InputError, match="no rollout in it"):
            status(stage.journal)


def test_a_line_that_was_cut_off_is_dropped_when_it_goes_on(stage: Stage) -> None:
    stage.roll_out(waves="1,100%")
    whole = stage.journal.read_bytes().rpartition(b'{"event": "end"')[0]
    stage.journal.write_bytes(whole + b'{"event": "end", "at": "20' + b"x" * 999)
    assert stage.roll_out(resume=True).outcome == "stopped"
    lines = stage.journal.read_bytes()
    assert lines.startswith(whole)
    assert events(stage.journal)[-1]["event"] == "end"


@pytest.mark.parametrize(
    "text",
    ["hello", "hello\n", "{}\n", '{"event": "begun"}\n', "[]\n", '{"event": "wave", "at": ""}\n'],
)
def test_a_file_that_is_no_journal_stays_as_it_is(stage: Stage, text: str) -> None:
    stage.journal.write_text(text)
    for resume in (False, True):
        with pytest.raises(InputError, match=r"rollout\.jsonl"):
            stage.roll_out(resume=resume)
    with pytest.raises(InputError):
        status(stage.journal)
    assert stage.journal.read_text() == text
    assert not stage.asked


@pytest.mark.parametrize("what", ["waves", "settings", "bundle", "labels", "rest", "sha256"])
def test_a_journal_that_lacks_something_is_one_line(stage: Stage, what: str) -> None:
    stage.roll_out(waves="1,100%")
    for spoiled in (lambda event: event.pop(what), lambda event: event.update({what: 7})):
        found = [dict(event) for event in events(stage.journal)]
        spoiled(found[0])
        other = stage.folder / "other.jsonl"
        other.write_text("".join(json.dumps(event) + "\n" for event in found))
        with pytest.raises(InputError, match=r"other\.jsonl"):
            status(other)


def test_two_rollouts_at_once_are_refused(stage: Stage) -> None:
    with (
        journal.opened(stage.journal),
        pytest.raises(UsageError, match="another rollout is running"),
    ):
        stage.roll_out()
    assert not stage.asked


def test_a_full_disk_stops_it_before_the_next_thing_happens(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = os.write, [0]

    def full(descriptor: int, data: bytes) -> int:
        if not data.startswith(b'{"event": "') and count[0] != 4:
            return write(descriptor, data)
        count[0] += 1
        if count[0] == 4:  # half of a line is written
            return write(descriptor, data[:10])
        if count[0] > 4:
            raise OSError(28, os.strerror(28))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(WorkspaceError, match=r"free some space\. Once that is done, --resume"):
            stage.roll_out(waves="1,100%")
    assert len(events(stage.journal)) == 3
    stage.said.clear()
    result = stage.roll_out(waves="1,100%", resume=True)
    assert (result.outcome, set(stage.served().values())) == ("done", {"new"})


def test_the_page_shows_what_the_table_shows_and_escapes_it(stage: Stage, tmp_path: Path) -> None:
    result = stage.roll_out(waves="1,100%")
    write_rollout(result, tmp_path / "fleet.html")
    page = (tmp_path / "fleet.html").read_text()
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    for said in ("b|c", "refused", "rolled back", "wave 2 failed", "1 of 2 boxes hold"):
        assert said in page
        assert said in " ".join(shipping.rollout(result).split())
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null", "."])
def test_what_is_no_file_is_no_journal(stage: Stage, path: str) -> None:
    with pytest.raises(InputError, match=path):
        stage.roll_out(journal=Path(path))
    with pytest.raises(InputError, match=path):
        status(Path(path))
    assert not stage.asked


def test_a_journal_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl: No such file"):
        status(tmp_path / "nowhere.jsonl")


def test_the_command_tells_the_status(stage: Stage, edgepipe: Run) -> None:
    stage.roll_out(waves="1,100%")
    done = edgepipe("status", stage.journal, "--page", "page.html", "--json")
    assert done.returncode == 1, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert [box["state"] for box in document["boxes"]] == ["deployed", "refused", "rolled back"]
    assert (stage.folder / "page.html").exists()
