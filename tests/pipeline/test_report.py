"""report: from made-up workspaces, from a real one, and as a browser shows it."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import write_report
from edgepipe.pipeline.accuracy import Drop
from edgepipe.pipeline.choice import choose
from edgepipe.pipeline.errors import ExitCode, InputError, UsageError, WorkspaceError
from edgepipe.pipeline.explanation import Explanation, LayerError, Step
from edgepipe.pipeline.measured import BenchResult, CellResult, Latency
from edgepipe.pipeline.regression import Comparison
from edgepipe.pipeline.reporting import Report
from edgepipe.pipeline.stages.evaluate import CellAccuracy, EvaluationResult
from edgepipe.pipeline.stages.parity import CellVerdict, ParityResult
from edgepipe.pipeline.statistics import interval
from edgepipe.pipeline.workspace import Artifact, Manifest, Workspace, sha256_file

Run = Callable[..., CompletedProcess[str]]

HOST = {
    "name": "box",
    "cpu": "A CPU & more",
    "cpu_flags": ["avx2", "avx512_vnni"],
    "physical_cores": 2,
    "logical_cpus": 4,
    "cpu_quota": None,
    "governor": None,
    "virtual_machine": True,
    "no_energy": "no RAPL counters",
    "memory_mib": 8192,
    "os": "Linux 6.1",
    "python": "3.11.7",
}
MODEL = {
    "name": "mobilenet_v2",
    "architecture": "mobilenet_v2",
    "weights": "digits",
    "weights_sha256": "ab" * 32,
    "trained": True,
    "parameters": 2_236_682,
    "classes": 3,
    "batch": 1,
    "input_size": 224,
    "simplified": True,
    "not_simplified_because": None,
}
SHAPE = {"size": 224, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "resize_to": None}
VARIANTS = ("fp32", "int8", "int8-avx2")
REFERENCE_DB = 129.3
MS = {
    ("fp32", "ort-cpu"): 4.9,
    ("int8", "ort-cpu"): 2.11,
    ("int8-avx2", "ort-cpu"): 2.05,
    ("fp32", "openvino"): 4.6,
    ("int8", "openvino"): 2.3,
    ("int8-avx2", "openvino"): 2.35,
    ("fp32", "torch"): 14.6,
}
SQNR = {"fp32": 126.8, "int8": 29.2, "int8-avx2": 28.1}
MIB = {"fp32": 8.5, "int8": 2.5, "int8-avx2": 2.5}


class MadeUp:
    """A workspace with small files in the place of models, and whatever results are put in."""

    def __init__(
        self, root: Path, *, model: str = "mobilenet_v2", labels: Sequence[str] = "abc"
    ) -> None:
        self.root, self.model = root, model
        self.folder = root / model
        self.folder.mkdir(parents=True)
        self.place = Workspace(root, model)
        for name in VARIANTS:
            (self.folder / f"{name}.onnx").write_text(f"the {name} of {model}")
        self.labels = tuple(labels)
        self.model_facts: dict[str, Any] = {**MODEL, "name": model}
        self.manifest()

    def manifest(self) -> None:
        """(Re)write the manifest of the files that are there."""
        files = sorted(self.folder.glob("*.onnx"))
        artifacts = {path.name: Artifact(sha256_file(path), path.stat().st_size) for path in files}
        manifest = Manifest(
            model=self.model_facts,
            preprocessing=SHAPE,
            labels=self.labels,
            variants={path.stem: {"onnx": path.name} for path in files},
            artifacts=artifacts,
            tools={"edgepipe": "0.1.0", "torch": "2.13.0"},
        )
        (self.folder / "manifest.json").write_text(manifest.to_json())
        self.hashes = {name: found.sha256 for name, found in artifacts.items()}

    def bench(self, *cells: CellResult, rounds: int = 6, **changes: Any) -> None:
        """Bench's files. The samples of the cells are of the right count and median."""
        random = np.random.default_rng(7)
        samples = tuple(self._samples(random, cell, rounds) for cell in cells)
        measured = [
            replace(
                cell,
                samples=sum(map(len, found)),
                rounds=len(found),
                round_ms=tuple(float(np.median(one)) / 1e6 for one in found),
            )
            if found
            else cell
            for cell, found in zip(cells, samples, strict=True)
        ]
        measured = [
            self._timed(cell, found) if found and cell.latency_ms else cell
            for cell, found in zip(measured, samples, strict=True)
        ]
        result = BenchResult(
            model=MODEL,
            host=HOST,
            hosts={"local": HOST},
            scenario="single-stream",
            quick=False,
            baseline=None,
            cells=tuple(measured),
            artifacts=self.hashes,
            problems=(),
            exit_code=ExitCode.OK,
            samples=samples,
        )
        result = replace(result, **changes)
        self.place.write_result("bench.npz", result.samples_file())
        self.place.write_json("bench.json", result.to_json())

    def parity(self, *cells: CellVerdict, **changes: Any) -> None:
        result = ParityResult(
            MODEL, self.hashes, {"local": HOST}, REFERENCE_DB, cells, (), ExitCode.OK
        )
        self.place.write_json("parity.json", replace(result, **changes).to_json())

    def evaluation(self, *cells: CellAccuracy) -> None:
        result = EvaluationResult(
            model=MODEL,
            artifacts=self.hashes,
            hosts={"local": HOST},
            data={"name": "photos", "images": 397, "classes": 3, "digest": "0" * 64},
            max_drop=1.5,
            reference={"variant": "fp32", "runner": "ort-cpu", "target": "local"},
            notes=("one of the notes",),
            cells=cells,
            exit_code=ExitCode.OK,
        )
        self.place.write_json("evaluation.json", result.to_json())

    def explain(self, *cells: Explanation) -> None:
        document = {"schema_version": 1, "model": MODEL, "artifacts": self.hashes}
        cells_of = [cell.to_json() for cell in cells]
        self.place.write_json("explain.json", {**document, "cells": cells_of})

    def everything(self) -> None:
        """All results, of all cells."""
        self.bench(*(timed(variant, runner) for variant, runner in MS))
        self.parity(*(judged(variant, runner) for variant, runner in MS))
        drop = Drop(0.25, (-0.55, 1.4), 1.0, 2, 1)
        interval95 = (0.974, 0.996)
        self.evaluation(
            CellAccuracy("fp32", "ort-cpu", "local", "ok", top1=0.99, top1_ci95=interval95),
            CellAccuracy(
                *("int8", "ort-cpu", "local", "ok"),
                verdict="pass",
                top1=0.9874,
                top1_ci95=interval95,
                drop=drop,
            ),
        )
        self.explain(explained("int8", "ort-cpu"), explained("int8-avx2", "openvino"))

    def page(self, **options: Any) -> str:
        _, path = write_report(workspace=self.root, model=self.model, **options)
        return path.read_text()

    def report(self) -> Report:
        return write_report(workspace=self.root, model=self.model, format="markdown")[0]

    @staticmethod
    def _samples(
        random: np.random.Generator, cell: CellResult, rounds: int
    ) -> tuple[np.ndarray, ...]:
        if cell.status != "ok" or cell.latency_ms is None:
            return ()
        scale = cell.latency_ms.p50 * 1e6
        return tuple(
            (scale * random.normal(1, 0.01) * (1 + random.gamma(1.2, 0.02, 150))).astype(np.int64)
            for _ in range(rounds)
        )

    @staticmethod
    def _timed(cell: CellResult, found: tuple[np.ndarray, ...]) -> CellResult:
        everything = np.concatenate(found) / 1e6
        low, high = interval(cell.round_ms)
        assert cell.latency_ms
        middle = float(np.median(everything))
        latency = replace(
            cell.latency_ms,
            p50=middle,
            p90=float(np.percentile(everything, 90)),
            ci95=(min(low, middle), max(high, middle)),
        )
        return replace(cell, latency_ms=latency)


def timed(variant: str, runner: str, verdict: str = "valid", **changes: Any) -> CellResult:
    milliseconds = changes.pop("ms", MS.get((variant, runner), 3.0))
    cell = CellResult(
        variant,
        runner,
        "local",
        status="ok",
        verdict=verdict,
        file=f"{variant}.onnx",
        runner_version="1.31.1",
        threads=2,
        streams=1,
        batch=1,
        precision="f32",
        latency_ms=Latency(milliseconds, None, None, milliseconds, 0.1, (milliseconds,) * 2),
        throughput_per_s=1000 / milliseconds,
        speedup=4.9 / milliseconds,
        load_ms=40.0,
        peak_rss_mib=103.4,
        size_bytes=int(MIB.get(variant, 3) * 2**20),
    )
    return replace(cell, **changes)


def judged(variant: str, runner: str, verdict: str = "pass", **changes: Any) -> CellVerdict:
    least = REFERENCE_DB - 30 if variant == "fp32" else 15.0
    cosine = 0.999999 if variant == "fp32" else 0.98
    fields: dict[str, Any] = dict.fromkeys(CellVerdict.__dataclass_fields__)
    fields |= {
        "variant": variant,
        "runner": runner,
        "target": "local",
        "status": "ok",
        "verdict": verdict,
        "samples": 64,
        "sqnr_db": SQNR.get(variant, 20.0),
        "max_abs": 0.01,
        "cosine": 0.99,
        "top1_agreement": 1.0,
        "flipped": [],
        "outputs": {},
        "nodes": {},
        "gate": {"min_sqnr_db": least, "min_cosine": cosine, "min_top1": 0.85},
        "placement": {},
        "precision": "f32",
        "threads": 2,
        "file": f"{variant}.onnx",
    }
    return CellVerdict(**{**fields, **changes})


def explained(variant: str, runner: str, name: str = "features") -> Explanation:
    random = np.random.default_rng(3)
    layers = [
        LayerError(
            *(f"{name}.{number}.conv", "Conv", f"t{number}"),
            sqnr_db=45.0 - number / 2 + float(random.normal(0, 1)),
            own_sqnr_db=40.0 + float(random.normal(0, 5)),
            clipped=0.0,
        )
        for number in range(52)
    ]
    step = Step("runner", runner, 28.0, 29.0, "pass", None)
    worst = sorted(layers, key=lambda layer: layer.badness)
    return Explanation(
        *(variant, runner, "local", "f32", "pass", 8, "runner", worst[0].layer),
        steps=(step,),
        layers=tuple(worst),
        order=tuple(layer.tensor for layer in layers),
        findings=(),
        notes=("watching its layers changed how nodes are fused",),
    )


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "artifacts")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    """A workspace with every result. Don't write to it."""
    made_up = MadeUp(tmp_path_factory.mktemp("full"))
    made_up.everything()
    return made_up


@pytest.fixture(scope="module")
def full_page(full: MadeUp) -> str:
    """Its page."""
    return full.page()


class Page(HTMLParser):
    """What is in a page: its elements, its ids, its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.ids = [value for _, given in self.elements if (value := given.get("id"))]
        self.headings = re.findall(r"<h[1-6]>([^<]*)</h", text)
        self.levels = [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def plain(page: str) -> str:
    """The text of a page, as one line."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_page_has_every_part_in_its_order(full: MadeUp, full_page: str) -> None:
    page = Page(text := full_page)
    assert page.headings == [
        "mobilenet_v2",
        "What was exported",
        "Recommendation",
        "Speed against fidelity",
        "Distribution of latencies",
        "Cells",
        "Accuracy",
        "SQNR by layer",
        "Machines",
        "How to reproduce",
        "Limits",
    ]
    assert text.count("<svg") == 6  # three plots, each for a desk and for a phone
    said = plain(text)
    assert "out of date" not in said
    assert "makes it" not in said
    for fact in ("2,236,682 parameters", "98.74%", "-0.55 to +1.40", "no RAPL counters", "torch"):
        assert fact in said
    assert full.hashes["int8.onnx"] in said


def test_a_page_needs_nothing_and_nobody_else(full_page: str) -> None:
    page = Page(text := full_page)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, given in page.elements:
        for name, value in given.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value
                assert value.startswith("#"), (tag, value)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in text  # and if there were any, no browser would fetch it


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


def test_plots_take_their_colours_from_the_page(full_page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", full_page, flags=re.DOTALL)
    assert pictures
    for picture in pictures:
        assert "var(--quiet)" in picture
        assert set(re.findall(r"#[0-9a-f]{6}\b", picture)) == set()


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_equal_results_make_equal_pages(full: MadeUp, full_page: str, form: str) -> None:
    assert full.page(format=form) == (full_page if form == "html" else full.page(format=form))


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_bare_export_says_what_would_make_the_rest(made_up: MadeUp, form: str) -> None:
    said = plain(made_up.page(format=form))
    assert "No recommendation: nothing was timed yet; run edgepipe bench." in said
    for command in ("edgepipe bench", "edgepipe parity", "edgepipe evaluate", "parity --explain"):
        assert command in said


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("bench.json", "nothing was timed yet"),
        ("bench.npz", "bench.npz is missing; edgepipe bench makes it"),
        ("parity.json", "the outputs were not judged yet; run edgepipe parity"),
        ("evaluation.json", "evaluation.json is missing; edgepipe evaluate makes it"),
        ("explain.json", "explain.json is missing; edgepipe parity --explain makes it"),
    ],
)
def test_one_missing_file_costs_its_own_part_only(made_up: MadeUp, file: str, said: str) -> None:
    made_up.everything()
    (made_up.folder / file).unlink()
    text = made_up.page(format="markdown")
    assert said in text
    assert ("RSS MiB" in text) == (file != "bench.json")
    assert ("29.2" in text) == (file != "parity.json")
    assert ("98.74%" in text) == (file != "evaluation.json")
    assert ("features.28.conv" in text) == (file != "explain.json")


def test_results_of_other_files_are_out_of_date_and_not_mixed_in(made_up: MadeUp) -> None:
    made_up.everything()
    (made_up.folder / "int8.onnx").write_text("exported again")
    made_up.manifest()
    made_up.parity(judged("fp32", "ort-cpu"), judged("int8", "ort-cpu"))
    text = plain(made_up.page())
    assert "bench.json: made from another int8.onnx. edgepipe bench makes it again" in text
    assert "No recommendation: bench.json is out of date (made from another int8.onnx)" in text
    assert "126.8" in text  # parity's
    assert "p50" not in text
    assert "98.74%" not in text
    assert "features." not in text


def test_a_variant_that_came_later_leaves_results_current(made_up: MadeUp) -> None:
    made_up.bench(timed("fp32", "ort-cpu"))
    made_up.parity(judged("fp32", "ort-cpu"))
    (made_up.folder / "fp16.onnx").write_text("one more")
    made_up.manifest()
    (choice,) = choose(made_up.report())
    assert choice.row
    assert choice.caveats == ("Not measured: fp16, int8-avx2 and int8.",)


def test_samples_of_another_bench_are_not_shown(made_up: MadeUp) -> None:
    made_up.everything()
    document = json.loads((made_up.folder / "bench.json").read_text())
    document["cells"][1]["latency_ms"]["p50"] *= 1.01
    made_up.place.write_json("bench.json", document)
    text = made_up.page()
    assert "bench.npz: not the samples that bench.json was made from" in text
    assert 'aria-label="Distribution' not in text


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("bench.json", "{", "can't be read"),
        ("bench.json", "[]", "can't be read"),
        ("parity.json", '{"schema_version": 2}', "schema 2, this reads 1"),
        ("parity.json", '{"schema_version": 1}', "artifacts: Field required"),
        ("evaluation.json", '{"schema_version": NaN}', "NaN is no JSON number"),
        ("explain.json", '{"schema_version": 1, "artifacts": {}, "cells": [1]}', "cells.0"),
        ("bench.npz", "no archive", "can't be read"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(
    made_up: MadeUp, file: str, content: str, why: str
) -> None:
    (made_up.folder / file).write_text(content)
    with pytest.raises(InputError, match=re.escape(why)) as caught:
        made_up.page()
    assert str(made_up.folder / file) in str(caught.value)
    assert not (made_up.folder / "report.html").exists()


HOSTILE = "<script>alert(1)</script> & \"'|`*](x)"


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
    assert not re.search(r"(?<!\\)[`|*\]]", prose.split("&lt;script&gt;", 1)[1].split("\n")[0])


def test_names_that_no_font_or_xml_has_are_drawn_all_the_same(made_up: MadeUp) -> None:
    made_up.explain(explained("int8", "ort-cpu", "層\x01$"))
    picture = re.findall(r"<svg.*?</svg>", made_up.page(), flags=re.DOTALL)[0]
    assert "層\N{REPLACEMENT CHARACTER}$." in picture


def sentence(made_up: MadeUp) -> str:
    (choice,) = choose(made_up.report())
    return choice.sentence


def test_the_recommendation_is_the_fastest_of_those_that_pass(made_up: MadeUp) -> None:
    made_up.bench(
        timed("fp32", "ort-cpu"),
        timed("int8", "ort-cpu", ms=1.0),
        timed("int8", "openvino", ms=2.0),
        timed("int8-avx2", "ort-cpu", "noisy", ms=0.5, notes=("rounds differ by 24%",)),
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
    low, high = choice.row.bench.latency_ms.ci95
    assert choice.sentence == (
        "int8 on openvino is the fastest of the 2 cells that pass: "
        f"p50 {choice.row.bench.latency_ms.p50:.2f} ms "
        f"(95 % interval {low:.2f}–{high:.2f} ms), SQNR 29.2 dB (parity asks for 15.0)."
    )
    assert choice.caveats == ("int8 fails parity on ort-cpu.",)


def test_without_a_cell_that_qualifies_the_reasons_are_counted(made_up: MadeUp) -> None:
    made_up.bench(
        timed("fp32", "ort-cpu", "noisy", notes=("rounds differ by 24%",)),
        timed("int8", "ort-cpu", "noisy", notes=("stolen CPU time",)),
        timed("int8", "openvino"),
    )
    made_up.parity(
        judged("fp32", "ort-cpu"), judged("int8", "ort-cpu"), judged("int8", "openvino", "fail")
    )
    said = sentence(made_up)
    assert said.startswith(
        "No recommendation: none of the 3 cells measured is both valid and faithful "
        "(2 × noisy timing, 1 × parity fail). "
        "The fastest that passes parity is int8 on ort-cpu, p50 2."
    )
    assert said.endswith("but: noisy timing (stolen CPU time).")


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
    assert f"The intervals do not tell it from int8 on {other}." in choice.caveats
    assert "Its parity gate is not the default one." in choice.caveats
    assert "int8 fails parity on ort-cpu at haswell." in choice.caveats
    text = plain(made_up.page())
    assert "1.200 1.100–1.300 1.05 ✕ fail" in text


def test_broken_and_equal_layers_are_called_so(made_up: MadeUp) -> None:
    found = explained("int8", "ort-cpu")
    first, second, *rest = found.layers
    broken = replace(first, sqnr_db=-math.inf, own_sqnr_db=-math.inf)
    equal = replace(second, own_sqnr_db=math.inf)
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


def test_offline_the_fastest_is_the_one_with_the_highest_throughput(made_up: MadeUp) -> None:
    cells = [
        timed(
            *("int8", runner),
            scenario="offline",
            latency_ms=None,
            throughput_per_s=rate,
            throughput_ci95=(rate - 5, rate + 5),
            rounds=6,
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


def test_a_quick_bench_is_called_one(made_up: MadeUp) -> None:
    made_up.bench(timed("int8", "ort-cpu", "noisy"), rounds=1, quick=True)
    text = plain(made_up.page())
    assert "quick one: a single round, which carries no interval" in text
    assert "95 % interval" not in text.split("Cells")[1].split("Accuracy")[0]


def test_markdown_has_the_same_facts_in_tables_that_hold(full: MadeUp) -> None:
    text = full.page(format="markdown")
    widths = [line.count("|") for line in re.sub(r"\\\|", "", text).splitlines() if "|" in line]
    heads = [number for number, line in enumerate(text.splitlines()) if line.startswith("|---")]
    assert len(heads) == 7
    assert len(set(widths)) <= len(heads)
    for part in ("## Recommendation", "is the fastest of the 7 cells that pass", "98.74%"):
        assert part in text
    assert "| cell | bench: verdict | bench: p50 ms |" in text
    assert "| int8 · ort-cpu | ✓ valid | 2." in text
    assert "\n\n\n" not in text


def test_commands_spell_out_what_was_run(workspace: Path) -> None:
    found, _ = write_report(workspace=workspace, format="markdown")
    text = (workspace / "mobilenet_v2" / "report.md").read_text()
    assert found.manifest.model["weights"] == "digits"
    assert (
        "    edgepipe export mobilenet_v2 --weights digits --calibration-images 128 "
        "--exporter onnx-dynamo --opset 20 "
        "--batch 1 --input-size 224 --variant fp32 --variant int8 --variant int8-avx2\n"
    ) in text


def test_commands_of_a_checkpoint_have_placeholders(made_up: MadeUp) -> None:
    made_up.model_facts |= {
        "weights": "checkpoint",
        "width": 0.5,
        "trained": True,
        "goldens": {"from": "folder", "count": 64, "digest": "0" * 64},
        "calibration": {"from": "folder", "count": 100, "digest": "1" * 64},
    }
    made_up.manifest()
    text = plain(made_up.page())
    assert "--checkpoint CHECKPOINT --width 0.5" in text
    assert "--calibration IMAGES --calibration-images 100" in text
    assert "CHECKPOINT is the file" in text
    assert "IMAGES is the folder" in text
    assert "mobilenet_v2 of width 0.5" in text


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


def test_the_command_on_a_real_workspace(workspace: Path, edgepipe: Run, tmp_path: Path) -> None:
    here = ("--workspace", workspace, "--quiet")
    cell = ("--runner", "ort-cpu", "--variant", "int8", *here)
    assert edgepipe("bench", "--quick", *cell).returncode in (0, 1)
    assert edgepipe("parity", "--samples", "16", "--explain", *cell).returncode in (0, 1)
    done = edgepipe("report", *here)
    assert done.returncode == 0, done.stderr
    said, path = done.stdout.splitlines()
    assert "int8 on ort-cpu" in said
    assert Path(path) == workspace / "mobilenet_v2" / "report.html"
    text = plain(Path(path).read_text())
    for part in ("quick: one short round", "features.", "SQNR dB", "--samples 16"):
        assert part in text
    target = tmp_path / "summary.md"
    done = edgepipe("report", "--format", "markdown", "--output", target, *here)
    assert done.returncode == 0, done.stderr
    assert target.read_text().startswith("# mobilenet_v2: edgepipe report\n")
    # What a report leaves in the workspace is no foreign file to the other commands.
    assert edgepipe("report", "--format", "markdown", *here).returncode == 0
    assert edgepipe("report", *here).returncode == 0


def test_errors_are_one_line(made_up: MadeUp, edgepipe: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no 'pdf'; known: html, markdown"):
        made_up.page(format="pdf")
    with pytest.raises(WorkspaceError, match="can't write"):
        made_up.page(output=tmp_path / "nowhere" / "report.html")
    done = edgepipe("report", "--workspace", tmp_path / "empty")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "run `edgepipe export`" in done.stderr
    (made_up.folder / "int8.onnx").write_text("edited")
    assert edgepipe("report", "--workspace", made_up.root).returncode == 4


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_without_its_libraries_it_says_what_to_install(made_up: MadeUp, library: str) -> None:
    made_up.everything()
    code = f"""
import sys
sys.modules[{library!r}] = None
sys.argv = ["edgepipe", "report", "--workspace", {str(made_up.root)!r}]
from edgepipe.pipeline.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert library in line
    assert line.endswith('pip install "edgepipe[report]"')


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
BROWSER = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
# A frame of that width around the page, and a script outside it that reads its measures.
FRAME = """<!DOCTYPE html><body style="margin: 0">
<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<pre></pre>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement
  const shown = [...page.querySelectorAll("svg")].filter(one => one.getBoundingClientRect().width)
  document.querySelector("pre").textContent = JSON.stringify({{
    scroll: root.scrollWidth,
    client: root.clientWidth,
    plots: shown.length,
    widest: Math.max(...shown.map(one => one.getBoundingClientRect().right)),
    tables: page.querySelectorAll("table").length,
    text: parseFloat(getComputedStyle(shown[0].querySelector("text")).fontSize)
      * shown[0].getBoundingClientRect().width / shown[0].viewBox.baseVal.width,
  }})
}})
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_scrolling_sideways_or_complaining(
    full_page: str, tmp_path: Path, width: int
) -> None:
    assert CHROMIUM
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(full_page)))
    command = [CHROMIUM, *BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, "--window-size=1300,900", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert found, done.stdout[-2000:]
    measured = json.loads(html.unescape(found[1]))
    assert measured["scroll"] == measured["client"]
    assert measured["plots"] == 3
    assert measured["widest"] <= width
    assert measured["tables"] == 7
    assert measured["text"] >= 10.5  # pixels on the screen
    assert "CONSOLE" not in done.stderr
