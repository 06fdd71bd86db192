"""The command line over scripted runners: verdicts, exit codes, files, and what is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgepipe.pipeline import evaluate
from edgepipe.runners.base import RunnerError, SessionError, WorkerCrashed
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import Made, changed
from .outcomes import Done, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNER = "ort-cpu"
ORT = ("--runner", RUNNER)
COMMANDS = ("bench", "parity", "evaluate", "tune")


THREE_FOR_EIGHT = [0, 1, 2, 8, 4, 5, 6, 7, 3, 9]
BACKWARDS = list(reversed(range(10)))


def confused(made: Made, order: list[int]) -> Script:
    """A file that takes classes for others."""

    def reorder(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array[:, order] for name, array in found.items()}

    return made.script(answer=changed(made.answer(), reorder))


@pytest.mark.parametrize(
    ("limit", "code", "verdict"),
    [(None, 0, None), ("0.5", 1, "fail"), ("60", 0, "pass"), ("100", 0, "pass")],
)
def test_the_limit_decides_about_a_variant_that_lost_accuracy(
    limit: str | None, code: int, verdict: str | None, make: Make, command: Run, tmp_path: Path
) -> None:
    """On all 397 held-out digits, which is what evaluate takes without --data."""
    made = make(variants=("fp32", "int8"))
    flags = ["--max-drop", limit] if limit else []
    with scripted({RUNNER: made.script(), f"{RUNNER}/int8": confused(made, THREE_FOR_EIGHT)}):
        done = command("evaluate", *ORT, *flags, "--json", "--quiet")
    fp32, int8 = done.document["cells"]
    assert (done.code, fp32["verdict"], int8["verdict"]) == (code, None, verdict)
    assert (fp32["images"], int8["images"]) == (397, 397)
    assert fp32["correct"] - int8["correct"] == int8["drop"]["lost"] - int8["drop"]["won"] > 50
    assert int8["drop"]["p_value"] < 1e-6
    valid_files(tmp_path)


def test_fp32_runs_along_unasked(make: Make, command: Run) -> None:
    made = make()
    with scripted(made.scripts(RUNNER, "openvino")):
        flags = ("--variant", "int8", "--runner", "openvino", "--max-drop", "60")
        done = command("evaluate", *flags, "--json", "--quiet")
    rows = [(cell["variant"], cell["runner"], cell["verdict"]) for cell in done.document["cells"]]
    assert rows == [("fp32", RUNNER, None), ("int8", "openvino", "pass")]


@pytest.mark.parametrize("limit", [None, "0.5"])
def test_too_few_images_are_inconclusive_and_say_how_many_would_do(
    limit: str | None, make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    flags = ["--max-drop", limit] if limit else []
    with scripted(made.scripts(RUNNER, "openvino")):
        done = command("evaluate", *ORT, "--runner", "openvino", *flags, "--quiet")
    text = " ".join(done.out.split())
    if limit is None:
        assert (done.code, "no limit given (--max-drop)" in text) == (0, True)
        return
    assert done.code == 6
    assert "can't tell whether 0.5 points are lost; about 765 like these would tell" in text
    assert f"compared with fp32 on {RUNNER}" in text


@pytest.mark.parametrize("error", [SessionError("no model"), WorkerCrashed("SIGSEGV")], ids=str)
@pytest.mark.parametrize("limit", [True, False], ids=["limit", "no limit"])
def test_without_any_fp32_nothing_is_claimed(
    error: RunnerError, limit: bool, make: Make, command: Run, photos: Path
) -> None:
    made = make(variants=("fp32", "int8"))
    scripts = made.scripts(RUNNER) | {f"{RUNNER}/fp32": made.script().failing(load=error)}
    flags = ["--data", photos, *(["--max-drop", "1"] if limit else [])]
    with scripted(scripts):
        done = command("evaluate", *ORT, "--variant", "int8", *flags, "--json", "--quiet")
    assert (done.code, done.document["reference"]) == (6 if limit else 0, None)
    (cell,) = done.document["cells"]
    assert (cell["verdict"], cell["drop"]) == ("inconclusive" if limit else None, None)
    assert cell["reason"] == "no fp32 to compare with"


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_more_cells_than_workers_see_all_the_images(
    workers: int, make: Make, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepipe.pipeline.judging.evaluate.MOST_WORKERS", workers)
    made = make()
    with scripted(made.scripts(RUNNER)):
        result = evaluate(runners=(RUNNER,), data=photos)
    assert [cell.images for cell in result.cells] == [20, 20, 20]
    assert all(cell.drop is not None for cell in result.cells[1:])


@pytest.mark.parametrize("name", ["parity", "evaluate"])
def test_files_for_ci_say_what_the_result_says(
    name: str, make: Make, command: Run, tmp_path: Path, photos: Path
) -> None:
    made = make()
    more = ["--data", photos, "--max-drop", "20"] if name == "evaluate" else []
    scripts = made.scripts(RUNNER) | {f"{RUNNER}/int8": confused(made, BACKWARDS)}
    scripts[f"{RUNNER}/int8-avx2"] = made.script().failing(load=WorkerCrashed("SIGSEGV"))
    with scripted(scripts):
        done = command(name, *ORT, *more, "--junit", "out.xml", "--markdown", "out.md", "--quiet")
    assert done.code == 1
    suite = ElementTree.parse(tmp_path / "out.xml").getroot().find("testsuite")
    assert suite is not None
    counted = [suite.get(kind) for kind in ("tests", "errors", "failures")]
    assert counted == ["3", "1", "1"]
    assert {case.get("classname") for case in suite.iter("testcase")} == {f"{name}.local.{RUNNER}"}
    error = suite.find(".//error")
    assert error is not None
    assert "SIGSEGV" in (error.get("message") or "")
    text = (tmp_path / "out.md").read_text()
    assert f"| int8 | {RUNNER} | local | f32 | ❌ fail |" in text
    assert "SIGSEGV" in text


def test_a_claim_that_the_goldens_cant_carry_is_an_error_for_ci(
    make: Make, command: Run, tmp_path: Path
) -> None:
    """An error and no failure: nothing is known to be wrong."""
    (tmp_path / "edgepipe.toml").write_text('[gates."int8/ort-cpu"]\nmin-top1 = 0.97\n')
    made = make(variants=("fp32", "int8"))
    with scripted(made.scripts(RUNNER)):
        done = command("parity", *ORT, "--junit", "out.xml", "--markdown", "out.md", "--quiet")
    assert done.code == 6
    suite = ElementTree.parse(tmp_path / "out.xml").getroot().find("testsuite")
    assert suite is not None
    assert [suite.get(kind) for kind in ("tests", "errors", "failures")] == ["2", "1", "0"]
    error = suite.find(".//error")
    assert error is not None
    assert re.search(r"can't carry a claim of 97%; \d+ samples", error.get("message") or "")
    text = (tmp_path / "out.md").read_text()
    assert "| fp32 | ort-cpu | local | f32 | ✅ pass |" in text
    assert "❔ inconclusive" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_quiet_says_nothing_on_stderr_and_otherwise_progress_stays_there(
    name: str, make: Make, command: Run, photos: Path
) -> None:
    made = make(variants=("fp32",))
    more = ["--data", photos] if name == "evaluate" else []
    with scripted(made.scripts(RUNNER)):
        quiet = command(name, *ORT, *more, "--quiet")
        loud = command(name, *ORT, *more, "--json")
    assert (quiet.code, quiet.err) == (0, "")
    assert loud.code == 0
    assert loud.document["cells"]


@pytest.mark.parametrize("name", [*COMMANDS, "package", "report", "compare", "predict"])
def test_without_an_export_it_is_said_what_to_do(name: str, command: Run, tmp_path: Path) -> None:
    more = {"compare": ["--workspace", tmp_path], "predict": ["x.png"]}.get(name, [])
    with scripted({}):
        done = command(name, *more)
    assert (done.code, done.out) == (3, "")
    one_line(done.error)
    assert "nothing exported yet" in done.error


@pytest.mark.parametrize("before", COMMANDS)
@pytest.mark.parametrize("after", [*COMMANDS, "report", "package"])
def test_what_a_command_leaves_is_known_to_the_next(
    before: str, after: str, make: Make, command: Run, photos: Path, tmp_path: Path
) -> None:
    made = make(variants=("fp32", "int8"))
    more = {"evaluate": ["--data", photos], "package": ["--allow-failed-parity"]}
    with scripted(made.scripts(RUNNER)):
        first = command(before, *ORT, *more.get(before, []), "--quiet")
        where = [] if after in ("report", "package") else ORT
        second = command(after, *where, *more.get(after, []), "--quiet")
    assert (first.code, second.code) == (0, 0), second.said
    valid_files(tmp_path)


def test_the_table_has_every_cell_and_says_what_quick_means(make: Make, command: Run) -> None:
    made = make()
    with scripted(made.scripts(RUNNER)):
        done = command("bench", "--quick", *ORT, "--quiet")
    assert re.search(r"^ *int8-avx2 +ort-cpu +f32 ", done.out, re.MULTILINE)
    assert "quick: a few short slices" in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_a_quick_run_against_a_file_decides_nothing(make: Make, command: Run) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER)):
        assert command("bench", *ORT, "--quick", "--quiet").code == 0
        kept = (made.folder / "bench.json").rename("old.json")
        done = command("bench", *ORT, "--quick", "--quiet", "--baseline", kept)
    assert done.code == 6
    assert "inconclusive" in done.out
    assert "the baseline is noisy" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--baseline", "x", "--rerun-baseline", "y"), 2, "choose one"),
        (("--rerun-baseline", "artifacts"), 2, "that is the workspace itself"),
        (("--max-slowdown", "5"), 2, "percentage"),
        (("--scenario", "server"), 2, "--rate"),
        (("--scenario", "multi-stream"), 2, "scenario"),
        (("--batch", "0"), 2, "batch"),
        (("--batch", "many"), 2, "batch"),
        (("--rounds", "0"), 2, "rounds"),
        (("--seconds", "0"), 2, "seconds"),
        (("--threads", "0"), 2, "threads"),
        (("--require-ep", "CUDA=101%"), 2, "not PROVIDER=PERCENT"),
        (("--precision", "f64"), 2, "no 'f64'"),
        (("--baseline", "no"), 3, "no: No such file"),
        (("--rerun-baseline", "elsewhere"), 3, "nothing exported yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_said_in_one_line(
    flags: tuple[str, ...], code: int, says: str, make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER)):
        done = command("bench", *ORT, *flags)
    assert (done.code, done.out) == (code, "")
    assert says in done.error


@pytest.mark.parametrize("scenario", ["offline", "server"])
@pytest.mark.parametrize("concurrent", [True, False])
def test_a_runner_with_one_run_at_a_time_has_no_throughput(
    scenario: str, concurrent: bool, make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER, concurrent=concurrent)):
        done = command("bench", *ORT, "--scenario", scenario, "--rate", 20, "--json", "--quiet")
    (cell,) = done.document["cells"]
    assert (done.code, cell["status"]) == ((0, "ok") if concurrent else (5, "failed"))
    assert concurrent or "one run at a time" in cell["reason"]


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("top", [1, 5, 10, 99])
def test_predict_shows_the_best_classes_in_order(
    kind: str, top: int, make: Make, command: Run, photos: Path
) -> None:
    outputs = [{"name": "logits", "dtype": "float32", "shape": [10], "scores": kind}]
    made = make(variants=("fp32",), model={"outputs": outputs})

    def softmax(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shares = {n: np.exp(array - array.max(axis=1, keepdims=True)) for n, array in found.items()}
        return {n: array / array.sum(axis=1, keepdims=True) for n, array in shares.items()}

    answer = made.answer() if kind == "logits" else changed(made.answer(), softmax)
    with scripted({RUNNER: made.script(answer=answer)}):
        done = command("predict", photos, "--top", top, "--json", "--quiet")
    assert (done.code, done.document["scores"]) == (0, kind)
    for found in done.document["predictions"]:
        shares = [guess["probability"] for guess in found["top"]]
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == min(top, 10)
        assert sum(shares) <= 1 + 1e-6
    right = [
        found["top"][0]["label"] == Path(found["image"]).parent.name
        for found in done.document["predictions"]
    ]
    assert sum(right) >= 14  # of 20: the nearest class mean is no good classifier
