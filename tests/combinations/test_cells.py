"""Many cells at once: every figure stands under its own cell's name, also where one is missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import bench, evaluate, parity, write_report
from edgepipe.runners.base import (
    RunnerError,
    RunnerUnavailable,
    SessionError,
    Settings,
    WorkerCrashed,
)
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import Made, changed
from .outcomes import Done, case, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNERS = ("ort-cpu", "openvino", "ort-openvino")
VARIANTS = ("fp32", "int8", "int8-avx2")
PRECISIONS = ("f32", "bf16")
Key = tuple[str, str, str]
EVERY: tuple[Key, ...] = tuple(itertools.product(RUNNERS, VARIANTS, PRECISIONS))
MS: dict[Key, float] = {key: 1 + 0.25 * place for place, key in enumerate(EVERY)}


def cast(made: Made, missing: Key | None, error: RunnerError) -> dict[str, Script]:
    """Runners each of whose cells takes a time of its own; one of them fails."""

    def script(runner: str, variant: str) -> Script:
        def varies(settings: Settings) -> dict[str, Any]:
            key = runner, variant, settings.precision
            return {"ms": MS[key], "fails": {"load": error} if key == missing else {}}

        return made.script(variant, precisions=PRECISIONS, varies=varies)

    return {f"{r}/{v}": script(r, v) for r, v in itertools.product(RUNNERS, VARIANTS)}


FAILURES = {
    "refused": SessionError("no such operator"),
    "crash": WorkerCrashed("SIGSEGV"),
    "unavailable": RunnerUnavailable("no library"),
}
PLACES = [None, EVERY[0], EVERY[3], EVERY[7], EVERY[-1]]


@pytest.mark.parametrize("failure", list(FAILURES))
@pytest.mark.parametrize("missing", PLACES, ids=lambda key: " ".join(key) if key else "none")
@pytest.mark.parametrize("name", ["bench", "parity", "evaluate"])
def test_every_row_is_about_its_own_cell(
    name: str, missing: Key | None, failure: str, make: Make, photos: Path, tmp_path: Path
) -> None:
    made = make()
    run: Callable[..., Any] = {"bench": bench, "parity": parity, "evaluate": evaluate}[name]
    more: dict[str, Any] = {"data": photos} if name == "evaluate" else {}
    with scripted(cast(made, missing, FAILURES[failure])):
        result = run(runners=RUNNERS, precisions=PRECISIONS, **more)
    cells = [cell for cell in result.cells if cell.status == "ok"]
    # An unavailable runner is asked once: its other cells share its fate.
    lost = {key for key in EVERY if missing and key[0] == missing[0] and failure == "unavailable"}
    lost |= {missing} if missing else set()
    bad = [cell for cell in result.cells if cell.status != "ok"]
    asked = [(cell.runner, cell.variant, cell.precision) for cell in result.cells]
    reference = ("ort-cpu", "fp32", "f32")
    if name == "evaluate" and reference in lost:  # then another fp32 is looked for
        assert set(asked) == set(EVERY)
    else:
        assert asked == list(EVERY)
    assert missing is None or missing in {(c.runner, c.variant, c.precision) for c in bad}
    for cell in bad:
        assert (cell.runner, cell.variant, cell.precision) in lost
        assert cell.status == ("unavailable" if failure == "unavailable" else "failed")
        one_line(cell.reason)
    for cell in cells:
        if name == "bench":
            expected = MS[cell.runner, cell.variant, cell.precision]
            assert cell.latency_ms.p50 == pytest.approx(expected, rel=0.01)
            base = MS.get((cell.runner, "fp32", cell.precision))
            there = (cell.runner, "fp32", cell.precision) not in lost
            assert cell.speedup == (
                pytest.approx(base / expected, rel=0.01) if there and base else None
            )
        else:
            assert cell.precision in PRECISIONS
    if name == "bench":
        with np.load(made.folder / "bench.npz") as archive:
            kept = dict(archive)
        for number, cell in enumerate(result.cells):
            assert (f"{number}" in kept) == (cell.status == "ok")
            if cell.status == "ok":
                assert np.median(kept[f"{number}"]) / 1e6 == pytest.approx(cell.latency_ms.p50)
    assert result.exit_code == (5 if missing else 0)
    valid_files(tmp_path)


@pytest.mark.parametrize("missing", PLACES, ids=lambda key: " ".join(key) if key else "none")
def test_a_report_joins_the_commands_cell_by_cell(
    missing: Key | None, make: Make, photos: Path
) -> None:
    made = make()
    with scripted(cast(made, missing, FAILURES["crash"])):
        for run in (bench, parity):
            run(runners=RUNNERS, precisions=PRECISIONS)
        evaluate(runners=RUNNERS, precisions=PRECISIONS, data=photos)
    report, _ = write_report(format="markdown")
    found = {(row.runner, row.variant, row.precision): row for row in report.rows}
    assert set(found) == set(EVERY)
    assert len(report.rows) == len(EVERY)
    for key in EVERY:
        row = found[key]
        assert row.bench
        assert row.parity
        assert row.accuracy
        for part in (row.bench, row.parity, row.accuracy):
            assert (part.runner, part.variant, part.precision) == key
        if key != missing:
            assert row.bench.latency_ms
            assert row.bench.latency_ms.p50 == pytest.approx(MS[key], rel=0.01)
            assert len(row.generations) == row.bench.generations


@pytest.mark.parametrize("wrong", EVERY[::3], ids=" ".join)
def test_a_wrong_answer_fails_the_cell_that_gave_it(wrong: Key, make: Make, tmp_path: Path) -> None:
    made = make()
    scripts = {}
    for runner, variant in itertools.product(RUNNERS, VARIANTS):
        negated = changed(made.answer(variant), lambda found: {n: -x for n, x in found.items()})

        def varies(settings: Settings, name: str = runner, one: str = variant, bad: Any = negated):
            return {"answer": bad} if (name, one, settings.precision) == wrong else {}

        script = made.script(variant, precisions=PRECISIONS, varies=varies)
        scripts[f"{runner}/{variant}"] = script
    with scripted(scripts):
        judged = parity(runners=RUNNERS, precisions=PRECISIONS)
        again = parity(recording=made.folder / "parity.npz")
        timed = bench(runners=RUNNERS, precisions=PRECISIONS, quick=True)
    for result, bad in ((judged, "fail"), (again, "fail"), (timed, "invalid")):
        found = {(c.runner, c.variant, c.precision) for c in result.cells if c.verdict == bad}
        assert found == {wrong}
        assert result.exit_code == 1
    valid_files(tmp_path)


TARGETS = """
[targets.nice]
command = ["nice", "{python}"]
[targets.box]
command = ["lost-box", "{python}"]
[targets.old]
command = ["env", "{python}"]
emulated = true
"""


@pytest.mark.parametrize("name", ["bench", "parity", "evaluate", "tune"])
@pytest.mark.parametrize(
    ("targets", "code"),
    [
        (("nice",), 0),
        (("local", "nice"), 0),
        (("local", "box"), 5),
        (("box",), 5),
        (("old",), 0),
        (("local", "old"), 0),
        (("old", "box"), 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_target_has_its_row(
    name: str,
    targets: tuple[str, ...],
    code: int,
    make: Make,
    command: Run,
    photos: Path,
    tmp_path: Path,
) -> None:
    made = make(variants=("fp32",))
    (tmp_path / "edgepipe.toml").write_text(TARGETS)
    flags: list[object] = [part for one in targets for part in ("--target", one)]
    flags += ["--data", photos] if name == "evaluate" else []
    lost = {"lost-box": RunnerUnavailable("can't start lost-box: No such file or directory")}
    with scripted(made.scripts("ort-cpu"), lost=lost):
        done = command(name, "--runner", "ort-cpu", *flags, "--json", "--quiet")
    if "old" in targets and name in ("bench", "tune"):
        assert (done.code, done.out) == (2, "")
        assert "emulated" in done.error
        return
    assert done.code == code, done.said
    cells = [cell for cell in done.document["cells"] if cell["target"] in targets]
    assert [cell["target"] for cell in cells] == list(targets)
    for cell in cells:
        assert cell["status"] == ("failed" if cell["target"] == "box" else "ok")
        if cell["target"] == "box":
            assert "can't start lost-box" in cell["reason"]
    assert set(done.document["hosts"]) >= set(targets) - {"box"}
    valid_files(tmp_path)


COMPARED = {
    "one of two is unavailable": (("ort-cpu", "openvino"), {"openvino": "unavailable"}, 5, ""),
    "all are there": (("ort-cpu", "openvino"), {}, 0, ""),
    "a broken plug-in": (("ort-cpu", "abacus"), {"abacus": "broken"}, 5, ""),
    "nothing but a broken plug-in": (("abacus",), {"abacus": "broken"}, 5, ""),
}


@pytest.mark.parametrize("batch", [1, "dynamic"])
@pytest.mark.parametrize(
    ("runners", "bad", "code"),
    [
        case(runners, bad, code, id=name.replace(" ", "_"), pending=pending)
        for name, (runners, bad, code, pending) in COMPARED.items()
    ],
)
def test_compare_answers_for_every_runner_that_was_named(
    runners: tuple[str, ...],
    bad: dict[str, str],
    code: int,
    batch: int | str,
    make: Make,
    command: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make(batch=batch)
    scripts = made.scripts(*runners)
    for runner, how in bad.items():
        for key in [key for key in scripts if key.partition("/")[0] == runner]:
            if how == "unavailable":
                del scripts[key]
            else:
                error = RunnerUnavailable("fails to import: boom")
                scripts[key] = scripts[key].failing(describe=error)
    asked = [part for one in runners for part in ("--runner", one)]
    flags = ("--workspace", tmp_path / "artifacts", "--no-training", "--quick", "--quiet")
    with scripted(scripts):
        done = command("compare", *asked, *flags, "--json")
    assert done.code == code, done.err
    (model,) = done.document["models"]
    for runner in runners:
        rows = [speed for speed in model["speeds"] if speed["runner"] == runner]
        assert rows, f"nothing of {runner}"
        for row in rows:
            assert (row["status"] == "ok") == (runner not in bad)
            if runner in bad:
                one_line(row["reason"])
