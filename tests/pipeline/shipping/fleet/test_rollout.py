"""rollout: waves, gates, boxes that are away or die, a controller that is killed at any line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.shipping.fleet.rollout_result import Rollout

from .stage import Killed, Make, Stage, events, hurry, killed_after, killed_at

FIVE = ("a", "b", "c", "d", "e")


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    hurry(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def make(names: tuple[str, ...] = FIVE, serving: bool = True, **fields: Any) -> Stage:
        stage = Stage(tmp_path, names, **fields)
        if serving:
            stage.serve_old()
        return stage

    return make


def states(result: Rollout) -> dict[str, str]:
    return {box.name: box.state for box in result.boxes}


def test_every_box_serves_the_release_after_the_last_wave(fleet: Make) -> None:
    stage = fleet()
    result = stage.roll_out(waves="1,50%,100%")
    assert (result.outcome, result.exit_code) == ("done", 0)
    assert [(wave.boxes, wave.state) for wave in result.waves] == [
        (("a",), "passed"),
        (("b", "c"), "passed"),
        (("d", "e"), "passed"),
    ]
    assert set(stage.served().values()) == {"new"}
    assert set(states(result).values()) == {"deployed"}
    assert {box.before for box in result.boxes} == {stage.name(stage.old)}
    switched = [box for box, step in stage.asked if step == "switch"]
    assert switched == list(FIVE)
    again = stage.roll_out(waves="100%")
    assert set(states(again).values()) == {"unchanged"}


def test_a_wave_that_fails_goes_back_and_later_ones_are_not_reached(fleet: Make) -> None:
    stage = fleet(said={("c", "new"): 1})
    result = stage.roll_out(waves="1,3,100%")
    assert (result.outcome, result.exit_code) == ("stopped", 1)
    assert "1 of 2 boxes hold, 95% needed (c: answers: as told)" in str(result.reason)
    assert stage.served() == {"a": "new", "b": "old", "c": "old", "d": "old", "e": "old"}
    assert states(result) == {
        "a": "deployed",
        "b": "rolled back",
        "c": "refused",
        "d": "not reached",
        "e": "not reached",
    }
    assert result.box("b").reason == "wave 2 failed"
    assert not {("d", "open"), ("e", "open")} & set(stage.asked)


def test_all_waves_go_back_if_that_was_asked_for(fleet: Make) -> None:
    stage = fleet(said={("c", "new"): 1})
    result = stage.roll_out(waves="1,3,100%", rollback="all")
    assert set(stage.served().values()) == {"old"}
    assert "all waves went back" in str(result.reason)


def test_a_bad_box_among_enough_good_ones_goes_back_alone(fleet: Make) -> None:
    stage = fleet()
    holds = stage.verdict

    def soaked(box: str, name: str) -> dict[str, Any]:
        found = holds(box, name)
        again = [one for one in stage.asked if one == (box, "verify")]
        return {**found, "code": 1} if box == "b" and len(again) > 2 else found

    stage.verdict = soaked
    result = stage.roll_out(waves="100%", threshold="80%", soak="0.1s")
    assert (result.outcome, result.exit_code) == ("done", 0)
    assert stage.served() == {"a": "new", "b": "old", "c": "new", "d": "new", "e": "new"}
    assert (result.box("b").state, result.box("b").good) == ("rolled back", False)
    assert (result.waves[0].good, result.waves[0].bad) == (4, 1)


def test_a_release_that_does_not_outlive_the_soak_goes_back(fleet: Make) -> None:
    stage = fleet()
    holds = stage.verdict

    def soaked(box: str, name: str) -> dict[str, Any]:
        asked = sum(one == (box, "verify") for one in stage.asked)
        return {**holds(box, name), **({"code": 1, "error": "edgepipe: hot"} if asked == 3 else {})}

    stage.verdict = soaked
    result = stage.roll_out(waves="1,100%", soak="0.1s")
    assert result.outcome == "stopped"
    assert "(a: hot)" in str(result.reason)
    assert set(stage.served().values()) == {"old"}


def test_a_p99_is_held_to_what_is_certified(fleet: Make) -> None:
    stage = fleet(("a", "b", "c"), limit=10.0, said={("*", "new"): 9.0, ("b", "new"): 11.0})
    result = stage.roll_out(waves="1,100%")
    assert result.outcome == "stopped"
    assert (result.box("a").p99_ms, result.box("a").max_p99_ms) == (9.0, 10.0)
    assert stage.served() == {"a": "new", "b": "old", "c": "old"}
    assert not [note for note in result.notes if "p99" in note]


def test_a_certified_p99_that_was_not_measured_is_not_held(fleet: Make) -> None:
    stage = fleet(("a",), limit=10.0)
    result = stage.roll_out(waves="100%")
    assert result.outcome == "stopped"
    assert "it was not measured there" in str(result.box("a").reason)
    assert stage.served() == {"a": "old"}


def test_without_a_certified_p99_it_is_said_that_none_was_judged(fleet: Make) -> None:
    result = fleet(("a", "b")).roll_out(waves="100%")
    assert "no p99 is certified for 2 of 2 boxes" in result.notes[0]
    assert result.waves[0].unlimited == 2


# Boxes that are away --------------------------------------------------------------------------


def test_a_box_that_is_away_is_waited_for(fleet: Make) -> None:
    stage = fleet(("a", "b"))
    stage.away["b"] = 3
    result = stage.roll_out(waves="100%", wait="60s")
    assert result.outcome == "done"
    assert stage.served() == {"a": "new", "b": "new"}
    assert sum(one == ("b", "hello") for one in stage.asked) == 4


def test_a_box_that_stays_away_is_skipped_and_named(fleet: Make) -> None:
    stage = fleet()
    stage.away["b"] = 10_000
    result = stage.roll_out(waves="1,100%", max_away="25%")
    assert (result.outcome, result.exit_code) == ("done", 0)
    assert (result.box("b").state, result.box("b").good) == ("away", None)
    assert "exit status 255" in str(result.box("b").reason)
    assert (result.waves[1].good, result.waves[1].bad, result.waves[1].away) == (3, 0, 1)
    assert any(note.startswith("away: b") for note in result.notes)


def test_too_many_boxes_away_stop_it(fleet: Make) -> None:
    stage = fleet()
    stage.away["b"] = stage.away["c"] = 10_000
    result = stage.roll_out(waves="1,100%", max_away="25%")
    assert (result.outcome, result.exit_code) == ("stopped", 5)
    assert "2 of 4 boxes are away, at most 25% may be" in str(result.reason)
    assert stage.served() == {"a": "new", **dict.fromkeys("bcde", "old")}


def test_a_wave_that_is_away_as_a_whole_proves_nothing(fleet: Make) -> None:
    stage = fleet()
    stage.away["a"] = 10_000
    result = stage.roll_out(waves="1,100%", max_away="100%")
    assert (result.outcome, result.exit_code) == ("stopped", 5)


def test_a_box_that_comes_back_later_is_brought_up_in_the_end(fleet: Make) -> None:
    stage = fleet()
    dial = stage.dial

    def away_in_its_wave(target: Any) -> Any:
        late = any(one == ("e", "switch") for one in stage.asked)
        stage.away["b"] = 0 if late else 1
        return dial(target)

    stage.dial = away_in_its_wave
    result = stage.roll_out(waves="4,100%", max_away="25%")
    assert result.outcome == "done"
    assert result.box("b").state == "deployed"
    assert set(stage.served().values()) == {"new"}


@pytest.mark.parametrize("moment", ["before put", "before switch", "after switch", "before tidy"])
def test_a_box_that_dies_in_the_middle_is_settled_when_it_is_back(fleet: Make, moment: str) -> None:
    stage = fleet(("a", "b"))
    stage.dies["b"] = moment
    stage.away["b"] = 0
    dial = stage.dial

    def back_after_two(target: Any) -> Any:
        if sum(one == ("b", "hello") for one in stage.asked) == 2:
            stage.dies.clear()
        return dial(target)

    stage.dial = back_after_two
    result = stage.roll_out(waves="1,100%", wait="60s")
    assert result.outcome == "done"
    assert states(result) == {"a": "deployed", "b": "deployed"}
    assert result.box("b").before == stage.name(stage.old)
    assert stage.served() == {"a": "new", "b": "new"}


def test_a_box_that_dies_for_good_is_unknown_and_stops_its_wave(fleet: Make) -> None:
    stage = fleet(("a", "b", "c"))
    stage.dies["b"] = "after switch"
    dial = stage.dial

    def never_back(target: Any) -> Any:
        stage.away["b"] = 10_000 if ("b", "switch") in stage.asked else 0
        return dial(target)

    stage.dial = never_back
    result = stage.roll_out(waves="1,100%")
    assert (result.outcome, result.exit_code) == ("stopped", 1)
    assert stage.served()["b"] == "new"
    assert (result.box("b").state, result.box("b").good) == ("unknown", False)
    assert stage.served()["c"] == "old"
    stage.dies.clear()
    stage.away.clear()
    stage.dial = dial
    assert any("--resume settles them" in note for note in result.notes)
    settled = stage.roll_out(waves="1,100%", resume=True)
    assert settled.box("b").state == "rolled back"
    assert stage.served() == {"a": "new", "b": "old", "c": "old"}


def test_a_box_that_an_earlier_wave_lost_goes_back_with_the_one_that_fails(fleet: Make) -> None:
    stage = fleet(said={("d", "new"): 1, ("e", "new"): 1})
    stage.dies["b"] = "after switch"
    dial = stage.dial

    def back_in_wave_2(target: Any) -> Any:
        gone = ("b", "switch") in stage.asked and ("e", "verify") not in stage.asked
        stage.away["b"] = 1 if gone else 0
        if ("e", "verify") in stage.asked:
            stage.dies.clear()
        return dial(target)

    stage.dial = back_in_wave_2
    result = stage.roll_out(waves="3,100%", threshold="60%")
    assert result.outcome == "stopped"
    assert result.box("b").state == "rolled back"
    assert stage.served() == {"a": "new", "b": "old", "c": "new", "d": "old", "e": "old"}


def test_a_service_of_a_box_is_part_of_what_has_to_hold(fleet: Make) -> None:
    stage = fleet(("a",))
    stage.fleet.write_text(stage.fleet.read_text() + 'restart = "kiosk"\n')
    result = stage.roll_out(waves="100%")
    assert (result.outcome, result.box("a").state) == ("stopped", "rolled back")
    assert stage.served() == {"a": "old"}


# Killed ---------------------------------------------------------------------------------------


SCENARIOS: dict[str, dict[str, Any]] = {
    "good": {},
    "bad in wave 2": {"said": {("c", "new"): 1}},
    "bad, all back": {"said": {("c", "new"): 1}, "rollback": "all"},
    "away": {"away": "b", "max_away": "50%"},
    "soaked": {"soak": "0.1s"},
}


def played(stage: Stage, scenario: str, **more: Any) -> Rollout:
    said = dict(SCENARIOS[scenario])
    said.pop("said", None)
    if name := said.pop("away", None):
        stage.away[name] = 10_000
    return stage.roll_out(waves="1,3,100%", **said, **more)


QUICK = "bad in wave 2"
EACH = [(QUICK, 3), *(pytest.param(name, 1, marks=pytest.mark.long) for name in SCENARIOS)]


@pytest.mark.parametrize(("scenario", "lines_apart"), EACH)
def test_a_controller_killed_at_any_line_ends_as_one_that_was_not(
    fleet: Make, monkeypatch: pytest.MonkeyPatch, scenario: str, lines_apart: int
) -> None:
    """After every line of the journal, and once more while it goes on."""
    everything = SCENARIOS[scenario].get("said", {})
    stage = fleet(said=everything)
    whole = played(stage, scenario)
    served, lines = stage.served(), len(events(stage.journal))
    for count in range(1, lines + 1, lines_apart):
        stage.serve_old()
        with killed_after(count, monkeypatch), pytest.raises(Killed):
            played(stage, scenario)
        assert len(events(stage.journal)) == count
        assert None not in stage.served().values()
        with killed_after(2, monkeypatch), suppress(Killed):
            played(stage, scenario, resume=True)
        result = played(stage, scenario, resume=True)
        assert stage.served() == served, count
        assert states(result) == states(whole), count
        assert (result.outcome, result.reason) == (whole.outcome, whole.reason), count


@pytest.mark.long
@pytest.mark.parametrize("scenario", ["good", QUICK, "bad, all back"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_controller_killed_at_any_step_of_a_box_ends_as_one_that_was_not(
    fleet: Make, monkeypatch: pytest.MonkeyPatch, scenario: str, when: str
) -> None:
    stage = fleet(said=SCENARIOS[scenario].get("said", {}))
    whole = played(stage, scenario)
    served, steps = stage.served(), len(stage.asked)
    for count in range(1, steps + 1):
        stage.serve_old()
        with killed_at(count, when, monkeypatch), pytest.raises(Killed):
            played(stage, scenario)
        assert None not in stage.served().values()
        result = played(stage, scenario, resume=True)
        assert stage.served() == served, count
        assert states(result) == states(whole), count
        assert (result.outcome, result.reason) == (whole.outcome, whole.reason), count


def test_the_rest_of_a_soak_is_waited_for(fleet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = fleet(("a",))
    with killed_after(5, monkeypatch), pytest.raises(Killed):
        stage.roll_out(waves="100%", soak="0.1s")
    assert events(stage.journal)[-1]["event"] == "soak"
    result = stage.roll_out(waves="100%", soak="0.1s", resume=True)
    assert (result.outcome, stage.served()) == ("done", {"a": "new"})
    assert sum(event["event"] == "soak" for event in events(stage.journal)) == 1


def test_what_a_box_serves_counts_and_not_what_the_journal_says(
    fleet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deploys by hand while the controller is down."""
    stage = fleet(("a", "b", "c"))
    with killed_after(5, monkeypatch), pytest.raises(Killed):
        stage.roll_out(waves="1,100%")
    assert events(stage.journal)[-1]["event"] == "gate"
    link = stage.folder / "a" / "current"
    link.unlink()
    link.symlink_to("releases/other.tar.gz")
    result = stage.roll_out(waves="1,100%", resume=True)
    assert result.box("a").state == "changed since"
    assert "other.tar.gz" in str(result.box("a").reason)
    assert {name: what for name, what in states(result).items() if name != "a"} == {
        "b": "deployed",
        "c": "deployed",
    }


def test_a_box_that_was_wiped_meanwhile_is_brought_up_again(
    fleet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = fleet(("a", "b"))
    with killed_after(4, monkeypatch), pytest.raises(Killed):
        stage.roll_out(waves="100%")
    (stage.folder / "a" / "current").unlink()
    result = stage.roll_out(waves="100%", resume=True)
    assert (result.outcome, result.box("a").state) == ("done", "deployed")
    assert stage.served() == {"a": "new", "b": "new"}


# What is refused ------------------------------------------------------------------------------


def test_a_rollout_that_has_not_ended_is_not_begun_anew(
    fleet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = fleet(("a", "b"))
    with killed_after(3, monkeypatch), pytest.raises(Killed):
        stage.roll_out()
    before = stage.journal.read_bytes()
    with pytest.raises(UsageError, match="has not ended; --resume goes on"):
        stage.roll_out()
    with pytest.raises(UsageError, match=r"is about tiny-.*, not tiny-"):
        stage.roll_out(stage.old, resume=True)
    stage.fleet.write_text(stage.fleet.read_text().replace('name = "b"', 'name = "z"'))
    with pytest.raises(UsageError, match="b is only in the journal"):
        stage.roll_out(resume=True)
    assert stage.journal.read_bytes() == before


def test_a_journal_holds_one_rollout_after_the_other(fleet: Make) -> None:
    stage = fleet(("a",))
    stage.roll_out(waves="100%")
    count = len(events(stage.journal))
    stage.roll_out(stage.old, waves="100%")
    assert len(events(stage.journal)) == 2 * count


def test_nothing_to_resume_is_said_and_nothing_is_made(fleet: Make) -> None:
    stage = fleet(("a",))
    with pytest.raises(UsageError, match="nothing to resume"):
        stage.roll_out(resume=True)
    assert not stage.journal.exists()


def test_a_dry_run_reaches_no_box(fleet: Make) -> None:
    stage = fleet()
    result = stage.roll_out(dry_run=True)
    assert (result.outcome, stage.asked) == ("would roll out", [])
    assert [wave.boxes for wave in result.waves] == [("a",), ("b", "c"), ("d", "e")]
    assert not stage.journal.exists()
