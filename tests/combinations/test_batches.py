"""Static × dynamic × the flag × the scenario × the command, and models that take no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, parity, tune
from edgepipe.pipeline.speed.sweep import BATCHES
from edgepipe.runners.base import OutOfMemory, SessionError, Settings
from edgepipe.runners.workers.scripted import scripted

from ..made import Made
from .outcomes import Done, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNER = "ort-cpu"
OWN = (1, 4, "dynamic")
ASKED = (None, 1, 4, "sweep")
SCENARIOS = ("single-stream", "offline", "server")


def expected(own: int | str, asked: int | str | None) -> list[int]:
    """The batches that are measured; with a run's time the same for all, a sweep takes them all."""
    if asked == "sweep":
        return list(BATCHES) if own == "dynamic" else [1] if own == 1 else []
    if own == "dynamic":
        return [int(asked or 1)]
    return [int(own)] if asked in (None, own) else []


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("own", OWN)
def test_bench_has_the_batch_that_was_asked_for_or_the_reason_why_not(
    own: int | str,
    asked: int | str | None,
    scenario: str,
    make: Make,
    command: Run,
    tmp_path: Path,
) -> None:
    made = make(batch=own, variants=("fp32",))
    flags: list[object] = ["--runner", RUNNER, "--scenario", scenario, "--json", "--quiet"]
    flags += ["--batch", asked] if asked else []
    flags += ["--rate", 20] if scenario == "server" else []
    with scripted(made.scripts(RUNNER)):
        done = command("bench", *flags)
    cells = done.document["cells"]
    measured = expected(own, asked)
    if not measured:
        (cell,) = cells
        assert (done.code, cell["status"]) == (5, "failed")
        assert "--batch dynamic" in cell["reason"]
        return
    assert done.code == 0
    if asked == "sweep" and scenario == "server":
        measured = measured[:1]  # as many images arrive in a second, however they are bundled
        cells = cells[:1]
    assert [cell["batch"] for cell in cells] == measured
    for cell in cells:
        assert cell["scenario"] == scenario
        per_run = 20 if scenario == "server" else 1000
        assert cell["throughput_per_s"] == pytest.approx(per_run * cell["batch"], rel=0.02)
        assert (cell["latency_ms"] is None) == (scenario == "offline")
    valid_files(tmp_path)


@pytest.mark.parametrize("growth", [1.0, 1.5, 1.92, 2.0], ids=lambda growth: f"x{growth}")
def test_a_sweep_ends_where_a_larger_batch_brings_no_more(growth: float, make: Make) -> None:
    """``growth`` of a run's time when the batch doubles: 5 % of throughput are the least gain."""
    made = make(batch="dynamic", variants=("fp32",))
    script = made.script(
        varies=lambda settings: {"ms": growth ** (settings.batch.bit_length() - 1)}
    )
    with scripted({RUNNER: script}):
        cells = bench(runners=(RUNNER,), batch="sweep", scenario="offline").cells
    found = [cell.batch for cell in cells]
    gains = 2 / growth > 1.05
    assert found == [2**n for n in range(len(BATCHES) if gains else 3)]
    assert any("were not tried" in note for note in cells[-1].notes) == gains


def crowded(settings: Settings) -> dict[str, Any]:
    """Two runs at once are faster up to batch 4 and only wait for each other from there on."""
    batch, streams = settings.batch or 1, settings.streams or 2
    grown = 1.5 ** (batch.bit_length() - 1)
    late = batch > 4 and streams == 2
    return {"ms": grown * ((1.0 if streams == 2 else 1.2) if not late else batch)}


def test_a_sweep_has_fewer_streams_where_a_larger_batch_needs_no_more(make: Make) -> None:
    made = make(batch="dynamic", variants=("fp32",))
    chosen = {"runners": (RUNNER,), "batch": "sweep", "scenario": "offline"}
    with scripted(made.scripts(RUNNER, varies=crowded)):
        cells = bench(**chosen).cells
        fixed = bench(**chosen, concurrency=2).cells
    assert [(cell.batch, cell.streams) for cell in cells] == [
        (batch, 2 if batch <= 4 else 1) for batch in BATCHES
    ]
    assert [(cell.batch, cell.streams) for cell in fixed] == [(2**n, 2) for n in range(5)]


@pytest.mark.parametrize("operation", ["load", "run", "warm_up"])
@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_a_sweep_ends_where_the_memory_does(make: Make, scenario: Any, operation: str) -> None:
    made = make(batch="dynamic", variants=("fp32",))
    full = OutOfMemory("CUDA failure 2: out of memory")

    def varies(settings: Settings) -> dict[str, Any]:
        return {"fails": {operation: full}} if (settings.batch or 1) > 16 else {}

    with scripted(made.scripts(RUNNER, varies=varies)):
        result = bench(runners=(RUNNER,), batch="sweep", scenario=scenario)
    assert result.exit_code == 0
    assert [cell.batch for cell in result.cells] == [1, 2, 4, 8, 16]
    assert {cell.status for cell in result.cells} == {"ok"}
    ends = [[note for note in cell.notes if "the sweep ends" in note] for cell in result.cells]
    assert ends[:-1] == [[]] * 4
    assert ends[-1] == [f"the sweep ends here: batch 32 does not fit into the memory: {full}"]


def test_a_batch_that_fails_otherwise_ends_a_sweep_with_its_reason(make: Make) -> None:
    made = make(batch="dynamic", variants=("fp32",))

    def varies(settings: Settings) -> dict[str, Any]:
        return {"fails": {"run": SessionError("no such batch")}} if settings.batch == 4 else {}

    with scripted(made.scripts(RUNNER, varies=varies)):
        cells = bench(runners=(RUNNER,), batch="sweep", scenario="offline").cells
    assert [cell.batch for cell in cells] == [1, 2]
    assert "the sweep ends here: batch 4 has no result: no such batch" in cells[-1].notes


def test_what_finds_no_memory_beside_others_is_tried_alone(make: Make) -> None:
    """Of two variants the second one fits into what the first one leaves up to batch 2."""
    made = make(batch="dynamic", variants=("fp32", "int8"))
    tries: list[int] = []

    def varies(settings: Settings) -> dict[str, Any]:
        if settings.batch != 4:
            return {} if (settings.batch or 1) < 4 else {"fails": {"load": OutOfMemory("full")}}
        tries.append(4)
        return {"fails": {"load": OutOfMemory("full")}} if len(tries) == 1 else {}

    scripts = made.scripts(RUNNER)
    scripts[f"{RUNNER}/int8"] = made.script("int8", varies=varies)
    with scripted(scripts):
        cells = bench(runners=(RUNNER,), batch="sweep").cells
    assert [cell.batch for cell in cells if cell.variant == "int8"] == [1, 2, 4]
    assert [cell.batch for cell in cells if cell.variant == "fp32"] == list(BATCHES)


@pytest.mark.parametrize("batch", [1, 3, 16, 32, "dynamic"])
@pytest.mark.parametrize("name", ["parity", "evaluate", "predict"])
def test_a_batch_changes_nothing_of_the_answers(
    name: str, batch: int | str, make: Make, command: Run, tmp_path: Path, photos: Path
) -> None:
    flags: dict[str, list[object]] = {
        "parity": ["--runner", RUNNER],
        "evaluate": ["--runner", RUNNER, "--data", photos],
        "predict": [photos],
    }
    documents = []
    for number, one in enumerate((1, batch)):
        place = tmp_path / f"workspace {number}"
        made = Made(place, batch=one, variants=("fp32",))
        with scripted(made.scripts(RUNNER)):
            done = command(name, *flags[name], "--workspace", place, "--json", "--quiet")
        assert done.code == 0, done.err
        documents.append(done.document)
    one, other = documents
    if name == "predict":
        for a, b in zip(one["predictions"], other["predictions"], strict=True):
            assert [guess["index"] for guess in a["top"]] == [guess["index"] for guess in b["top"]]
        return
    (a,), (b,) = one["cells"], other["cells"]
    for field in ("verdict", "samples", "top1_agreement", "correct", "top1", "images"):
        assert a.get(field) == b.get(field), field
    if name == "evaluate":
        assert b["batch"] == (16 if batch == "dynamic" else batch)


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
@pytest.mark.parametrize(
    ("name", "code"),
    [("parity", 0), ("bench", 0), ("tune", 0), ("evaluate", 2), ("predict", 2), ("package", 2)],
)
def test_a_model_of_arrays_is_judged_and_timed_and_classifies_nothing(
    name: str, code: int, batch: int | str, make: Make, command: Run, photos: Path, tmp_path: Path
) -> None:
    made = make(batch=batch, images=False, outputs=("features", "more"), variants=("fp32",))
    more: dict[str, list[object]] = {"predict": [photos], "package": []}
    with scripted(made.scripts(RUNNER)):
        done = command(name, *more.get(name, ["--runner", RUNNER]), "--json", "--quiet")
    assert done.code == code, done.err
    if code:
        one_line(done.error)
    else:
        (cell,) = done.document["cells"]
        assert cell["status"] == "ok"
    valid_files(tmp_path)


@pytest.mark.parametrize("growth", [1.0, 2.5], ids=["larger is faster", "larger is slower"])
@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_an_offline_search_tries_batches_of_a_dynamic_model(
    batch: int | str, growth: float, make: Make
) -> None:
    made = make(batch=batch, variants=("fp32",))

    def varies(settings: Settings) -> dict[str, Any]:
        return {"ms": growth ** ((settings.batch or 1).bit_length() - 1)}

    with scripted(made.scripts(RUNNER, varies=varies)):
        (row,) = tune(runners=(RUNNER,), scenario="offline").cells
        (cell,) = bench(runners=(RUNNER,), scenario="offline").cells
        single = bench(runners=(RUNNER,)).cells[0]
        judged = parity(runners=(RUNNER,)).cells[0]
    gains = batch == "dynamic" and growth < 2
    assert row.verdict == ("recommended" if gains else "default")
    assert row.settings.get("batch") == (1024 if gains else None)
    assert (cell.tuned, cell.batch) == ((True, 1024) if gains else (False, 1))
    assert (single.tuned, single.batch) == (False, 1)
    assert judged.verdict == "pass"
    tried = {trial.settings.get("batch") for trial in row.trials} - {None}
    assert tried == (set() if batch == 1 else {4, 16, 64, 256, 1024} if gains else {4})


def test_an_offline_search_tunes_the_streams_with_the_batch(make: Make) -> None:
    made = make(batch="dynamic", variants=("fp32",))
    with scripted(made.scripts(RUNNER, varies=crowded)):
        (row,) = tune(runners=(RUNNER,), scenario="offline").cells
        (cell,) = bench(runners=(RUNNER,), scenario="offline").cells
    assert row.verdict == "recommended", row.reason
    assert dict(row.settings) == {"batch": 1024, "streams": 1}
    assert (cell.tuned, cell.batch, cell.streams) == (True, 1024, 1)


@pytest.mark.parametrize("scenario", ["single-stream", "offline", "cold"])
def test_what_a_run_takes_on_the_device_is_a_figure_beside_the_others(
    make: Make, command: Run, scenario: str
) -> None:
    made = make(variants=("fp32",))
    flags = ("--runner", RUNNER, "--scenario", scenario, "--quiet")
    with scripted(made.scripts(RUNNER, on_device_ms=0.25)):
        (cell,) = command("bench", *flags, "--json").document["cells"]
        there = command("bench", *flags).out
    with scripted(made.scripts(RUNNER)):
        (other,) = command("bench", *flags, "--json").document["cells"]
        absent = command("bench", *flags).out
    assert cell["on_device_ms"] == pytest.approx(0.25)
    assert other["on_device_ms"] is None
    assert ("on device" in there, "on device" in absent) == (True, False)
    assert "host memory to host memory" in there
