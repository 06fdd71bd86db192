"""report: the HTML page."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from edgepipe.pipeline.report.choice import choose
from edgepipe.pipeline.speed.bench_result import CellResult

from .reading import ESCAPED, HOSTILE, Page, plain
from .workspaces import HOST, MadeUp, explained, judged, timed


def test_a_page_has_every_part_in_its_order(full: MadeUp, full_page: str) -> None:
    page = Page(text := full_page)
    assert page.headings == [
        "mobilenet_v2",
        "Recommendation",
        "Speed against fidelity",
        "Distribution of latencies",
        "Cells",
        "Where the time goes",
        "Tuned settings",
        "Accuracy",
        "SQNR by layer",
        "Choosing a model",
        "Standard against depthwise-separable convolutions",
        "What the model sees",
        "Machines",
        "How to reproduce",
        "Limits",
        "What was exported",
    ]
    assert text.count("<svg") == 10  # five plots, each for a desk and for a phone
    said = plain(text)
    assert "out of date" not in said
    assert "makes it" not in said
    for fact in ("2,236,682 parameters", "98.74%", "-0.55 to +1.40", "no RAPL counters", "torch"):
        assert fact in said
    assert full.hashes["int8.onnx"] in said


def test_a_page_needs_nothing_and_nobody_else(full_page: str) -> None:
    page = Page(text := full_page)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, given in page.elements:
        for name, value in given.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value
                start = "data:image/png;base64," if tag == "img" else "#"
                assert value.startswith(start), (tag, value[:80])
    assert not re.search(r"url\((?!#)|@import", text)
    # And if there were any, no browser would fetch it.
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_a_page_is_accessible(full_page: str) -> None:
    page = Page(text := full_page)
    assert ("html", {"lang": "en"}) in page.elements
    assert "<title>mobilenet_v2: edgepipe report</title>" in text
    assert page.levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(page.levels))
    pictures = [given for tag, given in page.elements if tag == "svg"]
    assert all(given["role"] == "img" for given in pictures)
    assert any("int8 on ort-cpu: p50" in (given["aria-label"] or "") for given in pictures)
    assert len(page.ids) == len(set(page.ids))
    used = {
        reference
        for _, given in page.elements
        for value in given.values()
        for reference in re.findall(r"^#(.+)|url\(#([^)]+)\)", value or "")
    }
    assert {one or other for one, other in used} == set(page.ids)


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_equal_results_make_equal_pages(full: MadeUp, full_page: str, form: str) -> None:
    assert full.page(format=form) == (full_page if form == "html" else full.page(format=form))


def test_hostile_strings_are_shown_and_do_nothing(tmp_path: Path) -> None:
    made_up = MadeUp(tmp_path, labels=(HOSTILE, "b\nc"))
    cells = [timed("int8", "ort-cpu", "noisy", notes=(HOSTILE,)), timed("fp32", HOSTILE)]
    failed = CellResult("fp32", "openvino", "local", "failed", reason=HOSTILE)
    made_up.bench(*cells, failed, hosts={"local": {**HOST, "cpu": HOSTILE}})
    made_up.parity(judged("int8", "ort-cpu"), judged("fp32", HOSTILE, "fail", reason=HOSTILE))
    made_up.explain(explained("int8", HOSTILE, HOSTILE))
    text = made_up.page()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "<script" not in text
    assert f"0: {HOSTILE}" not in text
    assert plain(text).count(HOSTILE) >= 5
    markdown = made_up.page(format="markdown")
    prose = re.sub(r"^    .*$", "", markdown, flags=re.MULTILINE)  # blocks of code
    assert "<" not in prose
    assert prose.count("&lt;script&gt;") == prose.count(ESCAPED) >= 5


def test_broken_and_equal_layers_are_called_so(made_up: MadeUp) -> None:
    found = explained("int8", "ort-cpu")
    first, second, *rest = found.layers
    broken = replace(first, sqnr_db=-math.inf, own_sqnr_db=-math.inf, state="")
    equal = replace(second, own_sqnr_db=math.inf, state="")
    made_up.explain(replace(found, layers=(broken, equal, *rest)))
    text = plain(made_up.page())
    assert f"{first.layer} Conv broken broken" in text
    assert f"{second.layer} Conv {second.sqnr_db:.1f} equal" in text
    assert "✕ broken: not finite" in text


def test_tuned_settings_are_listed(made_up: MadeUp) -> None:
    options = {"allow_spinning": False}
    made_up.bench(timed("int8", "ort-cpu", tuned=True, threads=1, options=options))
    made_up.parity(judged("int8", "ort-cpu"))
    (choice,) = choose(made_up.report())
    assert choice.caveats[0] == "It runs with the settings that tune recommends."
    assert "int8 · ort-cpu 1 1 allow_spinning False tune" in plain(made_up.page())


def test_a_quick_bench_is_called_one(made_up: MadeUp) -> None:
    made_up.bench(timed("int8", "ort-cpu", "noisy"), generations=1, quick=True)
    text = plain(made_up.page())
    assert "quick one: a few short slices, which prove little" in text


def test_untrained_weights_and_goldens_of_noise_are_called_so(made_up: MadeUp) -> None:
    noise = {"from": "synthetic", "count": 64, "digest": "0" * 64}
    made_up.model_facts |= {"weights": "random", "trained": False, "goldens": noise}
    made_up.manifest()
    made_up.bench(timed("fp32", "ort-cpu"))
    made_up.parity(judged("fp32", "ort-cpu"))
    text = plain(made_up.page())
    assert "random, untrained" in text
    assert "its answers mean nothing" in text
    assert "The goldens are noise" in text
