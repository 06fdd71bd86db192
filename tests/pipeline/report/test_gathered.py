"""report: what it takes from a workspace, what it leaves out, and what it says of that."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.pipeline.errors import InputError, UsageError, WorkspaceError
from edgepipe.pipeline.report.choice import choose

from .reading import plain
from .workspaces import MadeUp, judged, timed

Run = Callable[..., CompletedProcess[str]]


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
        ("tune.json", "tune.json is missing; edgepipe tune makes it"),
        ("profile.json", "profile.json is missing; edgepipe bench --profile makes it"),
        ("../compare.json", "compare.json is missing; edgepipe compare makes it"),
    ],
)
def test_one_missing_file_costs_its_own_part_only(made_up: MadeUp, file: str, said: str) -> None:
    made_up.everything()
    (made_up.folder / file).unlink()
    text = made_up.page(format="markdown")
    assert said in text
    assert ("bench: p50 ms" in text) == (file != "bench.json")
    assert ("29.2" in text) == (file != "parity.json")
    assert ("98.74%" in text) == (file != "evaluation.json")
    assert ("features.28.conv" in text) == (file != "explain.json")
    assert ("not in the final" in text) == (file != "tune.json")
    assert ("between int8 layers: node_mean" in text) == (file != "profile.json")
    assert ("squeezenet1_1" in text) == (file != "../compare.json")


def test_results_of_other_files_are_out_of_date_and_not_mixed_in(made_up: MadeUp) -> None:
    made_up.everything()
    (made_up.root / "compare.json").unlink()  # of the zoo's models, so about no file here
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
    assert "spinning" not in text


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
    document["cells"][1]["latency_ms"]["mean"] *= 1.01
    (made_up.folder / "bench.json").write_text(json.dumps(document))
    text = made_up.page()
    assert "bench.npz: not the samples that bench.json was made from" in text
    assert 'aria-label="Distribution' not in text


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("bench.json", "{", "can't be read"),
        ("bench.json", "[]", "can't be read"),
        ("parity.json", '{"cells": []}', "'schema_version'"),
        ("parity.json", '{"schema_version": 1}', "artifacts: Field required"),
        ("evaluation.json", '{"schema_version": NaN}', "NaN is no JSON number"),
        ("explain.json", '{"schema_version": 1, "artifacts": {}, "cells": [1]}', "cells.0"),
        ("bench.npz", "no archive", "can't be read"),
        ("tune.json", '{"schema_version": 2, "cells": []}', "artifacts: Field required"),
        ("../compare.json", '{"schema_version": 1, "artifacts": 7}', "artifacts: Input should be"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(
    made_up: MadeUp, file: str, content: str, why: str
) -> None:
    made_up.everything()
    (made_up.folder / file).write_text(content)
    with pytest.raises(InputError, match=re.escape(why)) as caught:
        made_up.page()
    assert str((made_up.folder / file).resolve()) in str(caught.value)
    assert not (made_up.folder / "report.html").exists()


@pytest.mark.parametrize("form", ["html", "markdown"])
@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("bench.json", "2.40–2.50"),
        ("parity.json", "126.8"),
        ("evaluation.json", "98.74%"),
        ("explain.json", "features.28.conv"),
        ("tune.json", "not in the final"),
        ("profile.json", "between int8 layers: node_mean"),
        ("../compare.json", "squeezenet1_1"),
    ],
)
def test_a_file_of_another_edgepipe_is_out_of_date_and_costs_its_own_part_only(
    made_up: MadeUp, file: str, shown: str, form: str
) -> None:
    """Rounds were no generations: what an earlier bench wrote can't be read as today's."""
    made_up.everything()
    path = made_up.folder / file
    document = json.loads(path.read_text())
    other = document["schema_version"] - 1
    path.write_text(json.dumps({"schema_version": other, "cells": [{"rounds": 5}]}))
    text = plain(made_up.page(format=form))
    assert re.search(rf"{path.name}`?: made by another edgepipe", text)
    assert shown not in text
    assert "mobilenet_v2" in text
    if file == "bench.json":
        assert "No recommendation: bench.json is out of date (made by another edgepipe)" in text
        assert "there is no bench.json that it belongs to" in text
        assert "126.8" in text  # parity's


@pytest.mark.long
def test_the_command_on_a_real_workspace(workspace: Path, edgepipe: Run, tmp_path: Path) -> None:
    here = ("--workspace", workspace, "--quiet")
    cell = ("--runner", "ort-cpu", "--variant", "int8", *here)
    assert edgepipe("bench", "--quick", *cell).returncode in (0, 1)
    assert edgepipe("parity", "--samples", "16", "--explain", *cell).returncode in (0, 1)
    done = edgepipe("report", *here)
    assert done.returncode == 0, done.stderr
    said, path = done.stdout.splitlines()
    # A busy machine, or one without VNNI, has nothing to recommend: that is said as well.
    assert "int8 on ort-cpu" in said or "is not both valid and faithful" in said
    assert Path(path) == workspace / "mobilenet_v2" / "report.html"
    text = plain(Path(path).read_text())
    for part in ("quick: a few short slices", "features.", "SQNR dB", "--samples 16"):
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
