"""Profile × runners × settings × failures: which cell, what is refused, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, profile, tune, write_report
from edgepipe.pipeline.errors import UsageError
from edgepipe.runners.base import (
    NodeTime,
    RunnerUnavailable,
    SessionError,
    TensorSpec,
    WorkerCrashed,
)
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import NAME, Made
from .outcomes import Done, case, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]


def node(name: str, us: float, precision: str = "f32", operator: str = "Conv") -> NodeTime:
    return NodeTime(name, operator, f"jit_avx2_{precision}", precision, "CPU", us)


NODES = (
    node("features", 600.0),
    node("pooled", 0.0, operator="GlobalAveragePool"),
    node("logits", 200.0, operator="MatMul"),
)
MIXED = (
    node("features", 600.0, "int8"),
    node("pooled_reorder", 30.0, operator="Reorder"),
    node("pooled", 100.0, operator="GlobalAveragePool"),
    node("back", 20.0, operator="Reorder"),
    node("logits", 200.0, "int8", operator="MatMul"),
)


def gemm_script(like: Script, us: float) -> Script:
    """A runner that computes the product of any side in so many us."""
    product = (node("output", us, operator="MatMul"),)
    anything = {"inputs": (), "outputs": (TensorSpec("output", "float32", (1,)),)}
    return replace(like, nodes=product, ms=us / 1e3, **anything)


def able(made: Made, *runners: str, **changes: Any) -> dict[str, Script]:
    return made.scripts(*runners, **{"nodes": NODES, **changes})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        case(("--baseline", "old.json"), "--baseline: not with --profile", id="baseline"),
        case(("--rerun-baseline", "old"), "--rerun-baseline: not with", id="rerun-baseline"),
        case(("--scenario", "offline"), "--scenario: not with --profile", id="scenario"),
        case(("--concurrency", "2"), "--concurrency: not with --profile", id="concurrency"),
        case(("--rate", "20"), "--rate: not with --profile", id="rate"),
        case(("--generations", "5"), "--generations: not with --profile", id="generations"),
        case(("--reference", "fp32"), "--reference: not with --profile", id="reference"),
        case(("--require", "valid"), "--require: not with --profile", id="require"),
        case(("--max-slowdown", "5%"), "--max-slowdown: not with", id="slowdown"),
        case(("--require-ep", "CPU=100%"), "--require-ep: not with --profile", id="require-ep"),
        case(("--batch", "sweep"), "batch", id="sweep"),
        case(("-r", "ort-cpu", "-r", "openvino"), "--runner: a profile is of one cell", id="two"),
        case(("-v", "fp32", "-v", "int8"), "--variant: a profile is of one cell", id="variants"),
        case(("-t", "local", "-t", "haswell"), "--target: a profile is of one", id="targets"),
        case(("-t", "haswell"), "haswell is emulated", id="emulated"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    flags: tuple[str, ...], says: str, make: Make, command: Run, tmp_path: Path
) -> None:
    made = make()
    with scripted(able(made, "ort-cpu", "openvino")):
        done = command("bench", "--profile", *flags)
    assert (done.code, done.out) == (2, "")
    assert says in done.error
    assert not (made.folder / "profile.json").exists()


@pytest.mark.parametrize(
    ("fails", "code", "says"),
    [
        case({"load": SessionError("no such operator")}, 5, "no such operator", id="refused"),
        case({"load": RunnerUnavailable("not here")}, 5, "not here", id="unavailable"),
        case({"profile": WorkerCrashed("SIGSEGV")}, 5, "SIGSEGV", id="crashed"),
        case({"measure": SessionError("nan")}, 5, "nan", id="failed"),
    ],
)
def test_a_cell_that_gives_nothing_is_one_line_and_leaves_no_file(
    fails: dict[str, Any], code: int, says: str, make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    with scripted(able(made, "ort-cpu", fails=fails)):
        done = command("bench", "--profile", "--quick", "--json")
    assert (done.code, done.out) == (code, "")
    assert says in done.error
    assert not (made.folder / "profile.json").exists()


@pytest.mark.parametrize("runner", ["torch", "abacus"])
def test_a_runner_without_a_profiler_says_so(runner: str, make: Make, command: Run) -> None:
    made = make(variants=("fp32",), program=True)
    scripts = made.scripts(runner, formats=("onnx", "pt2"))
    with scripted(scripts):
        done = command("bench", "--profile", "--runner", runner)
    assert done.code == 5
    assert done.error == f"{runner} can't say what its nodes take: it has no profiler"
    one_line(done.error)


def test_a_plug_in_with_a_profiler_is_profiled_when_it_is_named(make: Make) -> None:
    made = make(variants=("fp32",))
    with scripted(able(made, "abacus")):
        found = profile(runners=("abacus",), quick=True)
    assert (found.cell.runner, found.cell.chosen) == ("abacus", "")
    assert [layer.layer for layer in found.layers] == ["features", "pooled", "logits"]


def test_the_fastest_cell_of_the_bench_is_looked_into(make: Make) -> None:
    made = make(program=True)
    scripts = able(made, "ort-cpu", "openvino")
    scripts["openvino/int8"] = replace(scripts["openvino/int8"], ms=0.3)
    # The fastest of all, but it can't say what its nodes take.
    scripts |= made.scripts("torch", formats=("pt2",), ms=0.1)
    with scripted(scripts):
        bench(generations=5)
        found = profile(quick=True)
        named = profile(variants=("fp32",), runners=("ort-cpu",), quick=True)
    assert (found.cell.variant, found.cell.runner) == ("int8", "openvino")
    assert "the fastest of 6 cells in bench.json" in found.cell.chosen
    assert (named.cell.variant, named.cell.runner, named.cell.chosen) == ("fp32", "ort-cpu", "")


def test_a_bench_of_other_files_does_not_choose(make: Make) -> None:
    made = make()
    scripts = able(made, "ort-cpu")
    scripts["ort-cpu/int8"] = replace(scripts["ort-cpu/int8"], ms=0.3)
    with scripted(scripts):
        bench(generations=5)
        made.edition = "2"
        made.write()
        found = profile(quick=True)
    assert found.cell.variant == "fp32"
    assert "not benched yet" in found.cell.chosen


def test_float_between_int8_is_told_with_its_price(make: Make, command: Run) -> None:
    made = make(variants=("int8",))
    scripts = able(made, "openvino", nodes=MIXED)
    with scripted(scripts):
        done = command("bench", "--profile", "--quick", "-r", "openvino")
        found = profile(runners=("openvino",), quick=True)
    (pooled,) = found.between_int8
    assert (pooled.layer, pooled.us, pooled.around_us) == ("pooled", 100.0, 50.0)
    line = (
        "in f32 between int8 layers: pooled (GlobalAveragePool), 100 µs and 50.0 µs of conversions"
    )
    assert f"{line} around it, 15.8% of all" in done.out


def test_shares_of_the_peak_are_of_the_best_product(make: Make) -> None:
    made = make(variants=("fp32",))
    scripts = able(made, "openvino")
    gemm = gemm_script(scripts["openvino"], 512**3 / 1e6)  # 10^12 MAC a second
    with scripted({**scripts, "openvino/gemm": gemm}):
        found = profile(runners=("openvino",), quick=True)
    (peak,) = found.peaks
    assert peak.gmacs_per_s == pytest.approx(1000, rel=0.02)
    assert (peak.kernel_unit, peak.cpu_unit) == ("AVX2", "AVX2")
    assert "512 × 512 × 512" in peak.shape
    features = found.layers[0]
    assert features.gmacs_per_s == pytest.approx(192 / 600 / 1e3)
    assert features.peak_share == pytest.approx(192 / 600 / 1e3 / peak.gmacs_per_s)


def test_without_a_product_there_is_a_profile_without_shares(make: Make) -> None:
    made = make(variants=("fp32",))
    with scripted(able(made, "openvino")):  # its script takes this model only
        found = profile(runners=("openvino",), quick=True)
    assert found.peaks == ()
    assert any(note.startswith("no peak for f32:") for note in found.notes)
    assert found.layers[0].gmacs_per_s
    assert found.layers[0].peak_share is None


def test_layers_that_take_no_time_at_all_divide_nothing_by_zero(make: Make, command: Run) -> None:
    made = make(variants=("fp32",))
    still = tuple(replace(one, us=0.0) for one in NODES)
    with scripted(able(made, "ort-cpu", nodes=still)):
        done = command("bench", "--profile", "--quick", "--json")
    assert done.code == 0, done.said
    assert {layer["gmacs_per_s"] for layer in done.document["layers"]} == {None}
    assert {layer["share"] for layer in done.document["layers"]} == {0.0}
    write_report()


def test_json_is_the_file_and_nothing_else(make: Make, command: Run, tmp_path: Path) -> None:
    made = make(variants=("fp32",))
    with scripted(able(made, "ort-cpu")):
        done = command("bench", "--profile", "--quick", "--json")
    assert done.document == json.loads((made.folder / "profile.json").read_text())
    valid_files(tmp_path)


def test_a_dynamic_batch_is_profiled_at_the_one_asked_for(make: Make) -> None:
    made = make(variants=("fp32",), batch="dynamic")
    with scripted(able(made, "openvino")):
        one = profile(runners=("openvino",), quick=True)
        four = profile(runners=("openvino",), batch=4, quick=True)
    assert (one.cell.batch, four.cell.batch) == (1, 4)
    assert one.macs
    assert four.macs == 4 * one.macs


def test_a_batch_that_the_model_does_not_have_is_a_failure_of_the_cell(
    make: Make, command: Run
) -> None:
    with scripted(able(make(variants=("fp32",)), "ort-cpu")):
        done = command("bench", "--profile", "--quick", "--batch", "4")
    assert done.code == 5
    assert "--batch dynamic" in done.error


def test_threads_and_what_tune_recommends_are_used_and_said(make: Make, command: Run) -> None:
    made = make(variants=("fp32",))
    turbo = {
        "tunables": {"turbo": (True,)},
        "varies": lambda settings: {"ms": 0.5 if settings.options.get("turbo") else 1.0},
    }
    with scripted(able(made, "ort-cpu", **turbo)):
        tune(runners=("ort-cpu",))
        tuned = profile(quick=True)
        untuned = profile(quick=True, tuned=False)
        threads = profile(quick=True, threads=3)
        done = command("bench", "--profile", "--quick")
    assert (tuned.cell.tuned, dict(tuned.cell.options)) == (True, {"turbo": True})
    assert (untuned.cell.tuned, dict(untuned.cell.options)) == (False, {})
    assert (threads.cell.tuned, threads.cell.threads) == (False, 3)
    assert "turbo True" in done.out


def test_keys_of_bench_hold_where_they_make_sense(make: Make, tmp_path: Path) -> None:
    made = make()
    keys = 'runners = ["ort-cpu"]\nvariants = ["int8"]\nthreads = 3\nscenario = "offline"\n'
    (tmp_path / "edgepipe.toml").write_text(f"[bench]\n{keys}")
    with scripted(able(made, "ort-cpu", "openvino")):
        found = profile(quick=True)
    assert (found.cell.runner, found.cell.variant, found.cell.threads) == ("ort-cpu", "int8", 3)
    (tmp_path / "edgepipe.toml").write_text('[bench]\nbatch = "sweep"\n')
    with scripted(able(made, "ort-cpu")), pytest.raises(UsageError, match="not of a sweep"):
        profile(quick=True)


def test_a_target_elsewhere_is_profiled_there(make: Make, command: Run, tmp_path: Path) -> None:
    made = make(variants=("fp32",))
    (tmp_path / "edgepipe.toml").write_text('[targets.box]\ncommand = ["ssh", "box", "{python}"]\n')
    with scripted(able(made, "ort-cpu")):
        done = command("bench", "--profile", "--quick", "--target", "box")
    assert done.code == 0, done.said
    assert done.out.startswith("fp32 / ort-cpu on box f32, batch 1")


def test_a_target_that_computes_as_an_older_cpu_gives_an_estimate(make: Make, command: Run) -> None:
    made = make(variants=("fp32",))
    says = "isa-avx2: estimate: this CPU computing as AVX2 (oneDNN: Intel AVX2)"
    with scripted(able(made, "ort-cpu", "openvino")):
        done = command("bench", "--profile", "--quick", "--target", "isa-avx2")
    assert done.code == 0, done.said
    assert done.out.startswith("fp32 / openvino on isa-avx2 f32, batch 1")
    assert f"  {says}" in done.out
    for form in ("html", "markdown"):
        _, path = write_report(format=form)
        assert says in path.read_text()


def test_the_report_shows_it_until_the_file_is_another_one(make: Make) -> None:
    made = make(variants=("int8",))
    with scripted(able(made, "openvino", nodes=MIXED)):
        profile(runners=("openvino",), quick=True)
    for form in ("html", "markdown"):
        _, path = write_report(format=form)
        text = path.read_text()
        assert "The 3 costliest of 3 layers" in text
        assert "between int8 layers: pooled" in text
    made.edition = "2"
    made.write()
    for form in ("html", "markdown"):
        _, path = write_report(format=form)
        text = path.read_text()
        assert "The 3 costliest" not in text
        assert "made from another int8.onnx" in text
    assert NAME in text
