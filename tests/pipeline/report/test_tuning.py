"""report: what tune recommends, what it tried, and where the defaults stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgepipe.pipeline.report.choice import choose
from edgepipe.pipeline.speed.tune import Trial, Tuned

from .reading import HOSTILE, Page, plain
from .workspaces import HOST, MadeUp, judged, timed, tuned, untuned

BEST = "threads 1, spinning False"


def test_a_recommendation_has_its_speed_up_when_it_was_found_and_how(made_up: MadeUp) -> None:
    made_up.tune(tuned("int8", "ort-cpu"))
    text = plain(made_up.page())
    row = f"int8 · ort-cpu ✓ recommended {BEST} 4.00 2.00 2.000 1.600–2.500 4 31"
    assert f"{row} 2026-01-02 03:04 UTC" in text
    assert "60 s for all cells" in text


def test_every_candidate_is_listed_with_what_became_of_it(made_up: MadeUp) -> None:
    made_up.tune(tuned("int8", "ort-cpu"))
    text = plain(made_up.page()).split("4 tried in 31 s")[1]
    found = [
        f"{BEST} ✓ recommended 2.000 1.600–2.500 12",
        "spinning False ○ not in the final 1.250 – 3",
        "threads 4 ○ not faster 0.800 – 3",
        "level all ✕ refused – – 0",
    ]
    places = [text.index(row) for row in found]
    assert places == sorted(places)
    assert "int8 · ort-cpu, level all no such level" in text


def test_where_nothing_wins_the_default_stays_and_why_is_said(made_up: MadeUp) -> None:
    interval = {"ratio": 0.998, "ci95": (0.99, 1.01), "default_ms": 4.0, "tuned_ms": 3.99}
    close = Trial({"threads": 1}, 0.998, 12, (0.99, 1.01))
    made_up.tune(
        untuned("fp32", "ort-cpu"),
        untuned("int8", "ort-cpu"),
        untuned("fp32", "openvino", reason="not significantly faster", trials=(close,), **interval),
        untuned("int8", "torch", status="failed", verdict=None, reason="it burnt", trials=()),
    )
    text = plain(made_up.page())
    assert "fp32 · ort-cpu ○ default – – – – – 1 7" in text
    assert "fp32 · ort-cpu, int8 · ort-cpu nothing that was tried is faster" in text
    assert "fp32 · openvino ○ default – 4.00 3.99 1.002 0.990–1.010" in text
    assert "threads 1 ○ not significantly faster 1.002" in text
    assert "int8 · torch ✕ failed" in text
    assert "int8 · torch failed: it burnt" in text


def test_a_candidate_that_answers_wrong_is_called_so(made_up: MadeUp) -> None:
    why = "parity fail: SQNR 3.0 dB, at least 15.0 needed"
    made_up.tune(
        untuned(
            *("int8", "ort-cpu"),
            reason=f"the fastest settings fail: {why}",
            trials=(Trial({"threads": 1}, 0.5, 3, reason=why),),
        )
    )
    text = plain(made_up.page())
    assert "threads 1 ✕ parity fail 2.000 – 3" in text
    assert f"int8 · ort-cpu, threads 1 {why}" in text


def test_a_busy_machine_leaves_an_earlier_recommendation_and_both_are_shown(
    made_up: MadeUp,
) -> None:
    made_up.tune(tuned("int8", "ort-cpu"))
    kept = made_up.recommended
    busy = replace(tuned("int8", "ort-cpu"), settings={}, verdict="inconclusive", reason="too busy")
    made_up.tune(busy)
    made_up.recommended = kept
    made_up.manifest()
    text = plain(made_up.page())
    assert "int8 · ort-cpu ◐ inconclusive" in text
    assert f"int8 · ort-cpu ✓ recommended {BEST} 4.00 2.00 2.000" in text
    assert "recommended by an earlier search; what it tried is not kept" in text


def test_what_was_tried_on_other_files_is_out_of_date(made_up: MadeUp) -> None:
    made_up.tune(tuned("int8", "ort-cpu"))
    (made_up.folder / "fp32.onnx").write_text("exported again")
    made_up.manifest()
    text = plain(made_up.page())
    assert "tune.json: made from another fp32.onnx. edgepipe tune makes it again" in text
    assert "threads 4" not in text
    # int8 is still the file that was tuned: the recommendation holds, and bench uses it.
    assert f"int8 · ort-cpu ✓ recommended {BEST}" in text


def test_another_machine_than_benchs_is_named(made_up: MadeUp) -> None:
    elsewhere = {"local": {**HOST, "cpu": "An older one"}}
    made_up.tune(tuned("int8", "ort-cpu"), hosts=elsewhere)
    evidence = {**made_up.recommended[0].evidence, "cpu": "An older one"}
    made_up.recommended = (replace(made_up.recommended[0], evidence=evidence),)
    made_up.manifest()
    made_up.bench(timed("int8", "ort-cpu", tuned=True))
    made_up.parity(judged("int8", "ort-cpu"))
    assert (
        "int8 · ort-cpu tuned on another CPU (An older one) than bench's (A CPU & more); "
        "run `edgepipe tune` again"
    ) in plain(made_up.page())
    (choice,) = choose(made_up.report())
    assert choice.caveats[0] == (
        "It runs with the settings that tune recommends, found on another CPU (An older one)."
    )


@pytest.mark.parametrize("first", [True, False])
def test_tune_stands_before_the_bench_that_used_it(made_up: MadeUp, first: bool) -> None:
    made_up.tune(tuned("int8", "ort-cpu"))
    made_up.bench(timed("int8", "ort-cpu", tuned=first))
    text = made_up.page(format="markdown")
    line = "edgepipe tune --runner ort-cpu --variant int8 --target local --budget 60\n"
    assert (text.index(line) < text.index("    edgepipe bench")) == first


def test_a_runner_that_could_not_be_asked_is_not_run(made_up: MadeUp) -> None:
    absent = Tuned("", "ort-cuda", "", "", "", "single-stream", "unavailable", reason="no GPU")
    made_up.tune(tuned("int8", "ort-cpu"), absent)
    assert "ort-cuda: unavailable: no GPU" in made_up.page(format="markdown")


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_hostile_reasons_do_nothing(made_up: MadeUp, form: str) -> None:
    hostile = Trial({"options": {HOSTILE: HOSTILE}}, None, 0, reason=HOSTILE)
    made_up.tune(untuned("int8", "ort-cpu", reason=HOSTILE, trials=(hostile,)))
    text = made_up.page(format=form)
    assert "<script" not in text
    if form == "html":
        assert plain(text).count(HOSTILE) >= 4
        assert "script" not in {tag for tag, _ in Page(text).elements}
