"""Tuned × precision × device × flags: a recommendation is used where it was found, and nowhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, tune
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners.base import SessionError, Settings, WorkerCrashed
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import NAME, Made, changed
from .outcomes import Done, case, one_line, strict, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNER = "ort-cpu"
TURBO: dict[str, Any] = {
    "precisions": ("f32", "bf16"),
    "devices": ("CPU", "GPU"),
    "tunables": {"turbo": (True,)},
    "varies": lambda settings: {"ms": 0.5 if settings.options.get("turbo") else 1.0},
}
PLACES = tuple(itertools.product(("f32", "bf16"), ("CPU", "GPU")))


def on(device: str, root: Path) -> None:
    (root / "edgepipe.toml").write_text(f'[runners.{RUNNER}]\ndevice = "{device}"\n')


def used(cell: Any) -> tuple[bool, dict[str, Any]]:
    return cell.tuned, dict(cell.options)


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        case(one, other, id=f"{' '.join(one)}-{' '.join(other)}")
        for one, other in itertools.product(PLACES, PLACES)
    ],
)
def test_what_was_tuned_holds_for_its_own_precision_and_device(
    found: tuple[str, str], asked: tuple[str, str], make: Make, tmp_path: Path
) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER, **TURBO)):
        on(found[1], tmp_path)
        (row,) = tune(runners=(RUNNER,), precisions=(found[0],)).cells
        assert row.verdict == "recommended", row.reason
        on(asked[1], tmp_path)
        (cell,) = bench(runners=(RUNNER,), precisions=(asked[0],)).cells
    assert (cell.status, cell.precision, cell.device) == ("ok", *asked)
    assert used(cell) == ((True, {"turbo": True}) if found == asked else (False, {}))
    assert cell.latency_ms
    assert cell.latency_ms.p50 == pytest.approx(0.5 if found == asked else 1.0, rel=0.01)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        case(one, other, id=f"{' '.join(one)} then {' '.join(other)}")
        for one, other in itertools.permutations(PLACES, 2)
    ],
)
def test_a_later_search_elsewhere_leaves_what_was_found(
    first: tuple[str, str], second: tuple[str, str], make: Make, tmp_path: Path
) -> None:
    """Also one that finds nothing: it takes its own recommendation away and no other one."""
    made = make(variants=("fp32",))

    def varies(settings: Settings) -> Mapping[str, Any]:
        here = (settings.precision, settings.device) == first
        return {"ms": 0.5 if settings.options.get("turbo") and here else 1.0}

    with scripted(made.scripts(RUNNER, **{**TURBO, "varies": varies})):
        for precision, device in (first, second):
            on(device, tmp_path)
            tune(runners=(RUNNER,), precisions=(precision,))
        on(first[1], tmp_path)
        (cell,) = bench(runners=(RUNNER,), precisions=(first[0],)).cells
        on(second[1], tmp_path)
        (other,) = bench(runners=(RUNNER,), precisions=(second[0],)).cells
    assert used(cell) == (True, {"turbo": True})
    assert used(other) == (False, {})


@pytest.mark.parametrize(
    ("searched", "flags", "tuned"),
    [
        case({}, {}, True, id="as it was found"),
        case({}, {"quick": True}, True, id="quick"),
        case({}, {"tuned": False}, False, id="untuned"),
        case({}, {"threads": 1}, False, id="threads"),
        case({}, {"batch": 1}, False, id="batch"),
        case({}, {"scenario": "offline"}, False, id="another scenario"),
        case({}, {"scenario": "offline", "concurrency": 2}, False, id="concurrency"),
        case({}, {"scenario": "server", "rate": 10.0}, False, id="server"),
        case({"scenario": "offline"}, {"scenario": "offline"}, True, id="offline both"),
        case({"scenario": "offline"}, {}, False, id="found offline"),
        case({"threads": 1}, {}, True, id="found with threads"),
    ],
)
def test_flags_decide_whether_a_recommendation_is_used(
    searched: dict[str, Any], flags: dict[str, Any], tuned: bool, make: Make
) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER, **TURBO)):
        (row,) = tune(runners=(RUNNER,), **searched).cells
        assert row.verdict == "recommended", row.reason
        (cell,) = bench(runners=(RUNNER,), **flags).cells
    assert cell.status == "ok", cell.reason
    assert used(cell) == ((True, {"turbo": True}) if tuned else (False, {}))


def test_a_new_file_is_not_tuned(make: Make, tmp_path: Path) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER, **TURBO)):
        tune(runners=(RUNNER,))
        assert Workspace(tmp_path / "artifacts", NAME).verified().recommended
        made.write()
        (cell,) = bench(runners=(RUNNER,)).cells
    assert used(cell) == (False, {})


@pytest.mark.parametrize("elsewhere", [True, False], ids=["another CPU", "the same CPU"])
def test_what_was_tuned_on_another_cpu_says_so(elsewhere: bool, make: Make) -> None:
    from edgepipe.runners.workers.scripted import HOST

    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER, **TURBO)):
        tune(runners=(RUNNER,))
    host = {**HOST, "cpu": "Another CPU"} if elsewhere else HOST
    with scripted(made.scripts(RUNNER, **TURBO), host=host):
        (cell,) = bench(runners=(RUNNER,)).cells
    assert any("tuned on another CPU" in note for note in cell.notes) == elsewhere


def option(**otherwise: Any) -> dict[str, Any]:
    """A runner with one option, with which these fields of its script are otherwise."""
    return {
        "tunables": {"turbo": (True,)},
        "varies": lambda settings: otherwise if settings.options.get("turbo") else {},
    }


def negated(made: Made) -> Any:
    return changed(made.answer(), lambda outputs: {n: -array for n, array in outputs.items()})


def shuffled(made: Made) -> Any:
    return changed(made.answer(), lambda outputs: {"other": outputs["logits"]})


CANDIDATES = {
    "faster": ({"ms": 0.5}, "recommended", "x 0.500"),
    "a little faster": ({"ms": 0.995}, "default", "not significantly faster"),
    "no faster": ({"ms": 1.0}, "default", ""),
    "slower": ({"ms": 2.0}, "default", "nothing that was tried is faster"),
    "refused": ({"fails": {"load": SessionError("no turbo")}}, "default", "nothing"),
    "crashes": ({"fails": {"measure": WorkerCrashed("SIGSEGV")}}, "default", "nothing"),
    "faster and wrong": ({"ms": 0.5, "answer": negated}, "default", "parity fail"),
    "faster and misnamed": ({"ms": 0.5, "answer": shuffled}, "default", ""),
    "faster in another precision": (
        {"ms": 0.5, "placement": {"precision": "bf16"}},
        "default",
        "computed in bf16",
    ),
    "faster beside others": (
        {"ms": 0.5, "conditions": {"others_percent": 40.0}},
        "recommended",
        "",
    ),
    "faster while stolen from": (
        {"ms": 0.5, "conditions": {"steal_percent": 9.0}},
        "recommended",
        "",
    ),
}


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
@pytest.mark.parametrize(
    ("otherwise", "verdict", "says"),
    list(CANDIDATES.values()),
    ids=[name.replace(" ", "_") for name in CANDIDATES],
)
def test_only_what_is_faster_beyond_doubt_and_right_is_recommended(
    otherwise: dict[str, Any],
    verdict: str,
    says: str,
    scenario: str,
    make: Make,
    command: Run,
    tmp_path: Path,
) -> None:
    made = make(variants=("fp32",))
    answer = otherwise.get("answer")
    fields = {**otherwise, **({"answer": answer(made)} if answer else {})}
    with scripted(made.scripts(RUNNER, **option(**fields))):
        done = command("tune", "--runner", RUNNER, "--scenario", scenario, "--json", "--quiet")
    (row,) = done.document["cells"]
    assert (row["status"], row["verdict"]) == ("ok", verdict), row["reason"]
    assert says in row["reason"]
    assert done.code == (6 if verdict == "inconclusive" else 0)
    kept = Workspace(tmp_path / "artifacts", NAME).verified().recommended
    assert len(kept) == (verdict == "recommended")
    if kept:
        assert kept[0].settings["options"] == {"turbo": True}
        assert row["ci95"][0] <= row["ratio"] <= row["ci95"][1] < 0.99
        assert row["tuned_ms"] < row["default_ms"]
        assert kept[0].evidence["candidates"] == len(row["trials"])
    assert strict((tmp_path / "artifacts" / NAME / "tune.json").read_text())["cells"] == [row]
    valid_files(tmp_path)


@pytest.mark.parametrize("wrong", [0.5, 0.995, 2.0], ids=["faster", "hardly", "slower"])
def test_several_options_are_put_together(wrong: float, make: Make) -> None:
    made = make(variants=("fp32",))

    def varies(settings: Settings) -> Mapping[str, Any]:
        ms = 1.0 if settings.threads > 1 else 3.0
        for name, factor in (("one", 0.8), ("two", 0.7), ("three", wrong)):
            ms *= factor if settings.options.get(name) else 1
        return {"ms": ms}

    tunables = dict.fromkeys(("one", "two", "three"), (True,))
    with scripted(made.scripts(RUNNER, tunables=tunables, varies=varies)):
        (row,) = tune(runners=(RUNNER,)).cells
    assert row.verdict == "recommended"
    helpful = {"one", "two"} | ({"three"} if wrong < 1 else set())
    assert set(row.settings["options"]) == helpful
    assert row.ratio == pytest.approx(0.56 * (wrong if wrong < 1 else 1), rel=0.01)


def test_processes_that_differ_by_more_than_the_gain_decide_nothing(
    make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    lucky = itertools.cycle((0.4, 0.5, 1.6))  # one in three is slower than without

    def varies(settings: Settings) -> dict[str, Any]:
        return {"ms": next(lucky) if settings.options.get("turbo") else 1.0}

    with scripted(made.scripts(RUNNER, **{**TURBO, "varies": varies})):
        done = command("tune", "--runner", RUNNER, "--json", "--quiet")
    (row,) = done.document["cells"]
    assert (done.code, row["verdict"]) == (6, "inconclusive")
    one_line(row["reason"])


def test_a_spent_budget_tries_nothing_and_says_nothing_was_faster(make: Make) -> None:
    made = make(variants=("fp32",))
    script: Script = made.script(**TURBO)
    with scripted({RUNNER: script}):
        (row,) = tune(runners=(RUNNER,), budget=1e-6).cells
    assert (row.status, row.verdict) == ("ok", "default")
    assert row.trials == ()
