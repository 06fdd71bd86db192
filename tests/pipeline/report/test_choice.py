"""report: which cell it recommends, and why it recommends none."""

from __future__ import annotations

import pytest

from edgepipe.pipeline.judging.evaluate_result import CellAccuracy
from edgepipe.pipeline.report.choice import choose
from edgepipe.pipeline.speed.bench_result import Comparison

from .reading import plain
from .workspaces import HOST, MadeUp, judged, timed


def sentence(made_up: MadeUp) -> str:
    (choice,) = choose(made_up.report())
    return choice.sentence


def test_the_recommendation_is_the_fastest_of_those_that_pass(made_up: MadeUp) -> None:
    made_up.bench(
        timed("fp32", "ort-cpu"),
        timed("int8", "ort-cpu", ms=1.0),
        timed("int8", "openvino", "noisy", ms=2.0, notes=("generations differ by 24%",)),
        timed("fp32", "openvino", ms=4.9),
        timed("int8-avx2", "ort-cpu", "invalid", ms=0.5, notes=("wrong outputs",)),
    )
    made_up.parity(
        judged("fp32", "ort-cpu"),
        judged("int8", "ort-cpu", "fail", reason="SQNR 3.0 dB, at least 15.0 needed"),
        judged("int8", "openvino"),
        judged("int8-avx2", "ort-cpu"),
    )
    (choice,) = choose(made_up.report())
    assert choice.row
    assert (choice.row.variant, choice.row.runner) == ("int8", "openvino")
    assert choice.row.bench
    assert choice.row.bench.latency_ms
    low, high = choice.row.bench.latency_ms.ci95 or (0, 0)
    assert choice.sentence == (
        "int8 on openvino is the fastest of the 2 cells that pass: "
        "2.45 [2.40–2.50] times as fast as fp32, "
        f"p50 {choice.row.bench.latency_ms.p50:.2f} ms "
        f"(95 % interval {low:.2f}–{high:.2f} ms), SQNR 29.2 dB (parity asks for 15.0)."
    )
    assert choice.caveats == ("int8 fails parity on ort-cpu.",)


def test_an_estimate_of_another_cpu_is_told_and_not_recommended(made_up: MadeUp) -> None:
    hosts = {"local": HOST, "isa-avx2": {**HOST, "cpu_flags": ["avx2", "fma"], "isa": "AVX2"}}
    rows = [("int8", "fail"), ("int8-avx2", "pass")]
    made_up.bench(
        timed("int8", "openvino"),
        *(timed(variant, "openvino", target="isa-avx2") for variant, _ in rows),
        hosts=hosts,
    )
    made_up.parity(
        judged("int8", "openvino"),
        *(judged(variant, "openvino", verdict, target="isa-avx2") for variant, verdict in rows),
        hosts=hosts,
    )
    here, there = choose(made_up.report())
    assert here.row
    assert "int8 fails parity on openvino at isa-avx2." in here.caveats
    assert there.row is None
    assert there.sentence.startswith(
        "On isa-avx2, an estimate: this CPU computing as AVX2. "
        "No recommendation; the fastest that passes: int8-avx2 on openvino at isa-avx2, p50 "
    )
    page = plain(made_up.page())
    assert "computing as AVX2" in page
    assert "isa-avx2: an estimate: this CPU computing as AVX2; no evidence" in page
    assert "parity judged on another CPU" not in page


def test_without_a_cell_that_qualifies_the_reasons_are_counted(made_up: MadeUp) -> None:
    made_up.bench(
        timed("fp32", "ort-cpu", "invalid", notes=("wrong outputs: some are NaN",)),
        timed("int8", "ort-cpu", "invalid", notes=("outputs changed while timed",)),
        timed("int8", "openvino"),
    )
    made_up.parity(
        judged("fp32", "ort-cpu"), judged("int8", "ort-cpu"), judged("int8", "openvino", "fail")
    )
    said = sentence(made_up)
    assert said.startswith(
        "No recommendation: none of the 3 cells measured is both valid and faithful "
        "(2 × invalid timing, 1 × parity fail). "
        "The fastest that passes parity is int8 on ort-cpu, p50 2."
    )
    assert said.endswith("but: invalid timing (outputs changed while timed).")


@pytest.mark.parametrize(
    ("verdict", "word"), [("inconclusive", "parity inconclusive"), ("fail", "parity fail")]
)
def test_an_unfaithful_cell_is_never_recommended(made_up: MadeUp, verdict: str, word: str) -> None:
    made_up.bench(timed("int8", "ort-cpu"))
    made_up.parity(judged("int8", "ort-cpu", verdict))
    assert f"the one cell measured is not both valid and faithful (1 × {word})" in sentence(made_up)


def test_a_cell_that_parity_did_not_judge_is_not_recommended(made_up: MadeUp) -> None:
    made_up.bench(timed("int8", "ort-cpu"), timed("fp32", "ort-cpu"))
    made_up.parity(judged("fp32", "ort-cpu"))
    assert sentence(made_up).startswith("fp32 on ort-cpu is the only cell that passes")


def test_parity_of_another_cpu_says_nothing_about_this_one(made_up: MadeUp) -> None:
    made_up.bench(timed("int8", "ort-cpu"))
    made_up.parity(judged("int8", "ort-cpu"), hosts={"local": {**HOST, "cpu": "An older one"}})
    assert "parity judged on another CPU (An older one)" in sentence(made_up)


def test_lost_accuracy_keeps_a_cell_from_being_recommended(made_up: MadeUp) -> None:
    made_up.bench(timed("int8", "ort-cpu"), timed("fp32", "ort-cpu"))
    made_up.parity(judged("int8", "ort-cpu"), judged("fp32", "ort-cpu"))
    made_up.evaluation(
        CellAccuracy("int8", "ort-cpu", "local", "ok", verdict="fail", reason="lost 4 points")
    )
    assert sentence(made_up).startswith("fp32 on ort-cpu is the only cell that passes")


def test_what_limits_a_recommendation_is_said(made_up: MadeUp) -> None:
    slower = Comparison("fail", 0.05, 1.2, (1.1, 1.3), 2.0)
    made_up.bench(
        timed("int8", "ort-cpu", ms=2.0, comparison=slower), timed("int8", "openvino", ms=2.001)
    )
    lax = {"min_sqnr_db": 3.0, "min_cosine": 0.5, "min_top1": 0.1}
    made_up.parity(
        judged("int8", "ort-cpu", gate=lax),
        judged("int8", "openvino", gate=lax),
        judged("int8", "ort-cpu", "fail", target="haswell"),
    )
    (choice,) = choose(made_up.report())
    other = "openvino" if choice.row and choice.row.runner == "ort-cpu" else "ort-cpu"
    assert f"As fast, within 5%: int8 on {other}." in choice.caveats
    assert "Its parity gate is not the default one." in choice.caveats
    assert "int8 fails parity on ort-cpu at haswell." in choice.caveats
    text = plain(made_up.page())
    assert "1.200 1.100–1.300 1.05 ✕ fail" in text


def test_offline_the_fastest_is_the_one_with_the_highest_throughput(made_up: MadeUp) -> None:
    cells = [
        timed(
            *("int8", runner),
            scenario="offline",
            latency_ms=None,
            throughput_per_s=rate,
            throughput_ci95=(rate - 5, rate + 5),
            generations=6,
        )
        for runner, rate in (("ort-cpu", 400.0), ("openvino", 500.0))
    ]
    made_up.bench(*cells, scenario="offline")
    made_up.parity(judged("int8", "ort-cpu"), judged("int8", "openvino"))
    said = sentence(made_up)
    assert said.startswith("int8 on openvino is the fastest of the 2 cells that pass: 500.0 images")
    assert "(95 % interval 495.0–505.0 images/s)" in said
    assert "images per second" in made_up.page()


def test_each_target_has_its_own_recommendation(made_up: MadeUp) -> None:
    made_up.bench(
        timed("int8", "ort-cpu", target="atom"),
        timed("fp32", "ort-cpu"),
        hosts={"local": HOST, "atom": HOST},
    )
    made_up.parity(
        judged("int8", "ort-cpu", target="atom"),
        judged("fp32", "ort-cpu"),
        hosts={"local": HOST, "atom": HOST},
    )
    atom, local = choose(made_up.report())
    assert atom.sentence.startswith("int8 on ort-cpu at atom is the only cell")
    assert local.sentence.startswith("fp32 on ort-cpu is the only cell")


def test_of_two_that_are_as_fast_the_more_faithful_one_is_taken_then_the_smaller(
    made_up: MadeUp,
) -> None:
    made_up.bench(
        timed("int8", "ort-cpu", ms=2.0), timed("int8-avx2", "ort-cpu", ms=1.98, size_bytes=10)
    )
    made_up.parity(judged("int8", "ort-cpu"), judged("int8-avx2", "ort-cpu", sqnr_db=29.0))
    assert sentence(made_up).startswith(
        "int8 on ort-cpu is as fast as int8-avx2 on ort-cpu, the fastest of the 2 cells that pass, "
        "and nearer to the original: "
    ) or sentence(made_up).startswith("int8-avx2 on ort-cpu is the fastest")
    made_up.parity(judged("int8", "ort-cpu"), judged("int8-avx2", "ort-cpu", sqnr_db=25.0))
    assert "and nearer to the original" in sentence(made_up)


def test_where_the_ratios_cannot_tell_it_is_said_what_would(made_up: MadeUp) -> None:
    made_up.bench(
        timed("fp32", "ort-cpu"),
        timed("int8", "ort-cpu", ms=4.0, against_reference="undecided", speedup_ci95=(0.9, 1.6)),
    )
    made_up.parity(judged("fp32", "ort-cpu"), judged("int8", "ort-cpu"))
    (choice,) = choose(made_up.report())
    assert choice.row is None
    assert "1.23 [0.90–1.60] times as fast as fp32, undecided" in choice.sentence
    assert "more --generations" in choice.sentence


def test_a_quick_bench_recommends_nothing(made_up: MadeUp) -> None:
    made_up.bench(timed("int8", "ort-cpu"), quick=True)
    made_up.parity(judged("int8", "ort-cpu"))
    assert "1 × quick timing" in sentence(made_up)
