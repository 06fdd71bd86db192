"""compare: the table to choose a model by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.exporters.zoo import ARCHITECTURES
from edgepipe.exporters.zoo.published import PUBLISHED
from edgepipe.pipeline import compare, write_report
from edgepipe.pipeline.errors import InputError, UsageError
from edgepipe.pipeline.report.text import comparison
from edgepipe.pipeline.speed.comparison import compare as comparing
from edgepipe.pipeline.speed.comparison.candidates import Candidate, Speed
from edgepipe.pipeline.speed.comparison.compare import training_step_ms, with_fronts
from edgepipe.pipeline.speed.comparison.convolutions import by_arithmetic

Run = Callable[..., CompletedProcess[str]]


@pytest.mark.long
def test_the_static_table_has_the_whole_zoo_and_leaves_nothing(
    edgepipe: Run, tmp_path: Path
) -> None:
    done = edgepipe("compare", "--static", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    rows = {row["model"]: row for row in document["models"]}
    assert set(rows) == set(ARCHITECTURES)
    for name, row in rows.items():
        assert row["parameters"] == pytest.approx(PUBLISHED[name].parameters, rel=5e-3)
        assert row["macs"] == pytest.approx(PUBLISHED[name].macs, rel=1e-2)
        assert row["published_top1"] == PUBLISHED[name].top1
        assert row["published_top1_from"]
        assert row["speeds"] == []
    assert not (tmp_path / "artifacts").exists()


def test_a_place_that_cant_be_written_ends_it_before_the_work(
    edgepipe: Run, tmp_path: Path
) -> None:
    (tmp_path / "artifacts").write_text("a file")
    done = edgepipe("compare", "squeezenet1_1", "--quick")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    assert "can't write artifacts" in done.stderr


def test_named_models_at_another_size() -> None:
    small, large = (
        compare(("mobilenet_v1",), static=True, input_size=size).models[0] for size in (128, 256)
    )
    assert small.parameters == large.parameters
    assert large.macs is not None
    assert small.macs is not None
    assert large.macs / small.macs == pytest.approx(4, rel=0.02)


def test_an_unknown_model_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean vgg16"):
        compare(("vgg61",), static=True)


def test_an_empty_workspace_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing exported yet"):
        compare(workspace=tmp_path)


@pytest.mark.long
def test_a_workspace_is_measured(edgepipe: Run, workspace: Path, tmp_path: Path) -> None:
    done = edgepipe(
        *("compare", "--workspace", workspace, "--quick", "--no-training", "--json"),
        *("--runner", "ort-cpu", "--runner", "openvino", "--plot", "pareto.svg"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["models"]
    # The digits' model has 10 classes: its own counts, not the published ones.
    assert row["parameters"] == 2_236_682
    assert row["size_bytes"]["int8"] < row["size_bytes"]["fp32"]
    assert row["size_bytes"]["fp32"] == (workspace / "mobilenet_v2" / "fp32.onnx").stat().st_size
    assert {(speed["variant"], speed["runner"]) for speed in row["speeds"]} == {
        (variant, runner) for variant in ("fp32", "int8") for runner in ("ort-cpu", "openvino")
    }
    for speed in row["speeds"]:
        assert speed["status"] == "ok"
        assert speed["p50_ms"] > 0
        assert speed["peak_rss_mib"] > 0
    assert document["host"]["cpu"]
    assert json.loads((workspace / "compare.json").read_text()) == document
    kept = json.loads((workspace / "mobilenet_v2" / "manifest.json").read_text())["artifacts"]
    digests = {name: found["sha256"] for name, found in kept.items()}
    assert document["artifacts"] == {"mobilenet_v2": digests}
    page, _ = write_report(workspace=workspace)
    assert page.source("compare.json").state == "current"
    plot = (tmp_path / "pareto.svg").read_text()
    for text in ("mobilenet_v2", "int8", "area: the file"):
        assert text in plot
    assert "openvino" in plot


def candidate(name: str, top1: float | None, **times: float | None) -> Candidate:
    speeds = tuple(
        Speed("fp32", runner.replace("_", "-"), "ok", None, "valid", (), "f32", 1, p50, (1, 2), 1.0)
        for runner, p50 in times.items()
    )
    return Candidate(name, name, None, None, 1000, 224, 1, 1, 1, top1, "made up", {}, 1.0, speeds)


def test_the_pareto_front_is_each_runners_own() -> None:
    rows = with_fronts(
        [
            candidate("exact", 80.0, ort_cpu=10.0, openvino=5.0),
            candidate("quick", 70.0, ort_cpu=1.0, openvino=6.0),
            candidate("beaten", 60.0, ort_cpu=2.0, openvino=7.0),
            candidate("unpublished", None, ort_cpu=0.1, openvino=0.1),
            candidate("not measured", 99.0, ort_cpu=None),
        ]
    )
    fronts = {(row.model, speed.runner) for row in rows for speed in row.speeds if speed.pareto}
    assert fronts == {("exact", "ort-cpu"), ("quick", "ort-cpu"), ("exact", "openvino")}


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"target": "atom-01"}], ids=str)
def test_the_pareto_front_is_of_like_conditions(other: dict[str, str]) -> None:
    slow, fast = candidate("exact", 80.0, openvino=5.0), candidate("exact", 80.0, openvino=1.0)
    elsewhere = replace(fast.speeds[0], **other)
    (row,) = with_fronts([replace(slow, speeds=(*slow.speeds, elsewhere))])
    assert [speed.pareto for speed in row.speeds] == [True, True]


def test_why_figures_are_missing_is_said() -> None:
    result = compare(("squeezenet1_1",), static=True)
    (row,) = result.models
    absent = Speed("fp32", "openvino", "failed", "it burnt", None, (), None, None, None, None, None)
    text = comparison.text(replace(result, models=(replace(row, speeds=(absent,)),), static=False))
    assert "squeezenet1_1 fp32/openvino: failed: it burnt" in text


def test_separable_convolutions_save_up_to_nine_times() -> None:
    shapes = by_arithmetic()
    assert len(shapes) == 12
    for shape in shapes:
        assert shape.ratio == pytest.approx(1 / (1 / shape.outputs + 1 / 9))
        assert shape.separable_intensity < shape.standard_intensity
    wide = [shape.ratio for shape in shapes if shape.outputs >= 96]
    assert all(8 < ratio < 9 for ratio in wide)
    # 960 channels of 7x7 pixels to 320, counted by hand.
    last = shapes[-1]
    assert (last.inputs, last.outputs, last.size) == (960, 320, 7)
    assert last.standard_macs == 49 * 9 * 960 * 320
    assert last.separable_macs == 49 * 960 * (9 + 320)


def test_a_training_step_is_the_median_of_those_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one does what is only done once; a batch has 8 images."""
    steps = iter([90.0, 0.8, 4.0, 1.6])
    moments = iter([moment for took in steps for moment in (0.0, took)])
    monkeypatch.setattr(comparing, "perf_counter", lambda: next(moments))
    assert training_step_ms("mobilenet_v1", 10, 0.25, 32, 1) == pytest.approx(200)
    assert next(moments, None) is None
