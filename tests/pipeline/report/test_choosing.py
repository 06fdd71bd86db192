"""report: the table to choose a model by, its plot, and separable convolutions."""

from __future__ import annotations

import re
from dataclasses import replace

from edgepipe.pipeline.report.plots import comparison
from edgepipe.pipeline.speed.comparison.candidates import Speed
from edgepipe.pipeline.speed.comparison.compare import CompareResult

from .reading import HOSTILE, plain
from .workspaces import HOST, MadeUp, candidate, convolution

ROWS = (candidate("mobilenet_v2", 72.154, 3.0), candidate("squeezenet1_1", 58.178, 5.0))


def test_models_stand_side_by_side_with_their_sources(made_up: MadeUp) -> None:
    made_up.compare(*ROWS)
    text = plain(made_up.page())
    assert "Models of the zoo; random weights; 224 pixels; 1000 classes" in text
    assert "mobilenet_v2 3,504,872 301 6.0 14.0 4.0 91.0 72.2" in text
    assert "mobilenet_v2 · int8 ort-cpu ◆ 2.00 1.80–2.20 100 ✓ valid" in text
    assert "squeezenet1_1 · fp32 ort-cpu 5.00 4.50–5.50 100 ✓ valid" in text
    assert "on A CPU & more, 2026-01-02 03:04 UTC" in text
    assert "Top-1 of mobilenet_v2, squeezenet1_1: a paper." in text
    assert "Not measured: edgepipe compare --convolutions does" in text


def test_inputs_that_differ_get_columns(made_up: MadeUp) -> None:
    small = candidate("squeezenet1_1", 58.178, 5.0, input_size=128, width=0.5)
    made_up.compare(ROWS[0], small)
    text = plain(made_up.page())
    assert "model pixels parameters" in text
    assert "squeezenet1_1 × 0.5 128 3,504,872" in text


def test_the_plot_names_every_model_at_both_widths(made_up: MadeUp) -> None:
    made_up.compare(*ROWS, candidate("my_own", None, 1.0))
    text = made_up.page()
    pictures = [one for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "Accuracy" in one]
    assert len(pictures) == 2
    for picture in pictures:
        names = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
        assert {"mobilenet_v2", "squeezenet1_1", "ort-cpu"} <= set(names)
        assert "my_own" not in names
        assert "mobilenet_v2 int8 on ort-cpu: p50 2.00 ms, top-1 72.2 %" in picture
        assert "#" not in re.sub(r'(href="|url\()#[^")]*', "", picture)  # the page's own colours
    assert "Not drawn, for want of a published accuracy: my_own." in plain(text)


def test_precisions_have_rows_and_panels_of_their_own(made_up: MadeUp) -> None:
    both = tuple(
        replace(speed, precision=precision, p50_ms=(speed.p50_ms or 0) * share)
        for precision, share in (("f32", 1.0), ("bf16", 0.5))
        for speed in ROWS[0].speeds
    )
    made_up.compare(replace(ROWS[0], speeds=both), ROWS[1])
    page = made_up.page()
    text = plain(page)
    assert "mobilenet_v2 · fp32 ort-cpu f32 3.00" in text
    assert "mobilenet_v2 · fp32 ort-cpu bf16 1.50" in text
    assert "mobilenet_v2 int8 on ort-cpu in bf16: p50 1.00 ms" in page
    assert "squeezenet1_1 int8 on ort-cpu in f32: p50 3.33 ms" in page
    assert ">ort-cpu in bf16<" in page
    assert "--precision f32 --precision bf16" in text


def test_targets_have_rows_and_panels_of_their_own_and_their_machines_names(
    made_up: MadeUp,
) -> None:
    both = tuple(
        replace(speed, target=target) for target in ("local", "atom-01") for speed in ROWS[0].speeds
    )
    hosts = {"local": HOST, "atom-01": {**HOST, "cpu": "A small one"}}
    made_up.compare(replace(ROWS[0], speeds=both), hosts=hosts)
    page = made_up.page()
    text = plain(page)
    assert "mobilenet_v2 · int8 ort-cpu atom-01 ◆ 2.00" in text
    assert "on A CPU & more (local) and A small one (atom-01), 2026" in text
    assert ">ort-cpu at atom-01<" in page


def test_convolutions_are_compared_by_arithmetic_and_by_the_clock(made_up: MadeUp) -> None:
    made_up.compare(*ROWS, convolutions=(convolution(),))
    for form in ("html", "markdown"):
        text = plain(made_up.page(format=form)).replace(" | ", " ")
        assert "960 → 320, 7 × 7 135 15.5 8.8 11 3.4 3.00 0.600 5.0 – – –" in text
        assert "openvino: failed: it burnt" in text


def test_one_round_gives_no_interval_and_a_missing_runner_its_reason(made_up: MadeUp) -> None:
    speed = replace(ROWS[0].speeds[0], ci95_ms=None, verdict="noisy", notes=("one short round",))
    absent = Speed(
        *("fp32", "ort-cuda", "unavailable", "no GPU"),
        verdict=None,
        notes=(),
        precision=None,
        threads=None,
        p50_ms=None,
        ci95_ms=None,
        peak_rss_mib=None,
    )
    made_up.compare(replace(ROWS[0], speeds=(speed, absent)), quick=True)
    text = plain(made_up.page())
    assert "mobilenet_v2 · fp32 ort-cpu ◆ 3.00 100 ◐ noisy" in text
    assert "mobilenet_v2 fp32/ort-cpu: one short round" in text
    assert "ort-cuda: unavailable: no GPU" in text
    assert "○ unavailable" not in text  # no columns for what gave nothing
    assert "--quick" in text


def test_models_of_a_workspace_that_changed_are_out_of_date(made_up: MadeUp) -> None:
    other = MadeUp(made_up.root, model="other")
    digests = {"mobilenet_v2": made_up.hashes, "other": other.hashes}
    made_up.compare(*ROWS, artifacts=digests)
    text = plain(made_up.page())
    assert "Models of the workspace;" in text
    assert "WORKSPACE is the folder" in text
    (other.folder / "int8.onnx").write_text("exported again")
    other.manifest()
    said = "compare.json: made from another int8.onnx of other. edgepipe compare makes it again"
    text = plain(made_up.page())
    assert said in text
    assert "3,504,872 301" not in text
    (other.folder / "manifest.json").write_text("{")
    assert "the manifest of other can't be read" in plain(made_up.page())
    (other.folder / "manifest.json").unlink()
    assert "of other. edgepipe compare makes it again" in plain(made_up.page())


def test_another_machine_than_benchs_is_named(full: MadeUp, made_up: MadeUp) -> None:
    made_up.everything()
    assert "compared on another CPU" not in plain(made_up.page())
    made_up.compare(*ROWS, host={**HOST, "cpu": "An older one"})
    text = plain(made_up.page())
    assert "on An older one, 2026" in text
    assert "The models were compared on another CPU than bench’s (A CPU & more)." in text


def test_hostile_names_do_nothing(made_up: MadeUp) -> None:
    speed = replace(ROWS[0].speeds[0], notes=(HOSTILE,))
    made_up.compare(replace(ROWS[0], model=HOSTILE, published_top1_from=HOSTILE, speeds=(speed,)))
    assert "<script" not in made_up.page()
    assert "<script" not in re.sub(r"(?m)^    .*$", "", made_up.page(format="markdown"))


def test_the_plot_in_a_file_of_its_own_has_the_same_names() -> None:
    picture = comparison.svg(CompareResult({}, ROWS, (), HOST, static=False))
    assert "mobilenet_v2" in picture
    assert "var(" not in picture
