"""Static × dynamic × the flag × the scenario × the command, and models that take no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, parity, tune
from edgepipe.runners.base import Settings
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
        return [1, 2, 4, 8, 16, 32, 64, 128] if own == "dynamic" else [1] if own == 1 else []
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
    assert found == [2**n for n in range(8 if 2 / growth > 1.05 else 2)]


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
    assert row.settings.get("batch") == (64 if gains else None)
    assert (cell.tuned, cell.batch) == ((True, 64) if gains else (False, 1))
    assert (single.tuned, single.batch) == (False, 1)
    assert judged.verdict == "pass"
    tried = {trial.settings.get("batch") for trial in row.trials} - {None}
    assert tried == ({4, 16, 64} if batch == "dynamic" else set())
