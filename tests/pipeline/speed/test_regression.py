"""The gate on speed: alarms for what is slower beyond doubt, and for nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline.errors import InputError
from edgepipe.pipeline.numerics.ratios import Ratio
from edgepipe.pipeline.speed.baseline import Baseline
from edgepipe.pipeline.speed.bench_result import CellResult, compare

Run = Callable[..., CompletedProcess[str]]
LIMIT = 0.05
ONE_CELL = ("--runner", "ort-cpu", "--variant", "int8", "--threads", "1", "--quiet")
METER = {"work": "some", "threads": 2}
HOST = {"cpu": "Abacus 9000", "physical_cores": 2}


def turned(factor: float, half: float = 0.02, generations: int = 8) -> Ratio:
    return Ratio(factor, factor * (1 - half), factor * (1 + half), generations)


@pytest.mark.parametrize(
    ("factor", "half", "verdict"),
    [
        (1.10, 0.02, "fail"),
        (1.00, 0.02, "pass"),
        (1.02, 0.02, "pass"),  # slower, within the limit
        (1.05, 0.02, "inconclusive"),
        (1.10, 0.20, "inconclusive"),
        (1.00, 0.20, "inconclusive"),
        (0.50, 0.20, "pass"),
    ],
)
def test_slower_beyond_doubt_fails(factor: float, half: float, verdict: str) -> None:
    found = compare(turned(factor, half), LIMIT, 2.0)
    assert (found.verdict, found.ratio, found.baseline_ms) == (verdict, factor, 2.0)


@pytest.mark.parametrize(("ratio", "generations"), [(turned(1.0, generations=2), 2), (None, 0)])
def test_few_generations_prove_nothing(ratio: Ratio | None, generations: int) -> None:
    found = compare(ratio, LIMIT, 2.0)
    assert found.verdict == "inconclusive"
    assert f"too few generations: {generations}, 3 needed" in (found.reason or "")


def row(**changes: Any) -> CellResult:
    """A row of a ``bench.json``."""
    cell = CellResult(
        *("int8", "ort-cpu", "local", "ok"),
        verdict="valid",
        precision="f32",
        device="CPU",
        batch=1,
        threads=2,
        streams=1,
        generations=6,
        generation_ms=(2.0,) * 6,
        in_meters=(4.0,) * 6,
    )
    return replace(cell, **changes)


def baseline(*rows: CellResult) -> Baseline:
    return Baseline(rows, {"local": HOST}, Path("bench.json"), {"local": METER})


@pytest.mark.parametrize(
    ("old", "new", "host", "says"),
    [
        (row(runner="openvino"), row(), HOST, "not in bench.json"),
        (row(), row(), {**HOST, "cpu": "Abacus 1"}, "another machine"),
        (row(threads=1), row(), HOST, "threads was 1, now 2"),
        (row(options={"spinning": False}), row(), HOST, "options was {'spinning': False}, now {}"),
        (row(verdict="invalid"), row(), HOST, "the baseline is invalid"),
        (row(), row(verdict="invalid"), HOST, "the measurement is invalid"),
        (row(in_meters=()), row(), HOST, "the baseline has 0 generations with a meter"),
        (row(), row(in_meters=(4.0, 4.0)), HOST, "the measurement has 2 generations with a meter"),
    ],
)
def test_what_cant_be_compared_is_inconclusive(
    old: CellResult, new: CellResult, host: dict[str, Any], says: str
) -> None:
    found = baseline(old).compare(new, host, METER, LIMIT)
    assert found.verdict == "inconclusive"
    assert says in (found.reason or "")


def test_another_meter_measures_in_another_unit() -> None:
    found = baseline(row()).compare(row(), HOST, {**METER, "threads": 1}, LIMIT)
    assert found.verdict == "inconclusive"
    assert "the meter was" in (found.reason or "")


def test_noise_is_what_the_meter_is_for() -> None:
    """Twice as slow, and so was the meter."""
    slower = row(verdict="noisy", generation_ms=(4.0,) * 6)
    found = baseline(row(verdict="noisy")).compare(slower, HOST, METER, 0.10)
    assert (found.verdict, found.ratio) == ("pass", 1.0)


def test_the_same_cell_is_found_by_all_that_makes_it_the_same() -> None:
    slower = row(in_meters=(4.8,) * 6)
    assert baseline(row(batch=4), row()).compare(slower, HOST, METER, 0.10).verdict == "fail"
    assert baseline(row(batch=4), row()).compare(slower, HOST, METER, 0.30).verdict == "pass"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 7}', "\x00", '{"cells": 1}'])
def test_a_file_that_is_no_bench_is_bad_input(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(InputError, match=r"old\.json"):
        Baseline.load(tmp_path / "old.json")


@pytest.mark.long
def test_another_workspace_measured_along(
    workspace: Path, exported: Path, edgepipe: Run, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(exported, tmp_path / "old"))
    flags = (*ONE_CELL, "--seconds", "0.05", "--generations", "5", "--workspace", workspace)
    # So generous a limit that only a mix-up of new and old, or of cells, would exceed it.
    done = edgepipe("bench", "--json", *flags, "--rerun-baseline", old, "--max-slowdown", "400%")
    assert done.returncode in (0, 6), done.stdout + done.stderr
    document = json.loads(done.stdout)
    (cell,) = document["cells"]
    assert document["baseline"].startswith(str(old))
    assert cell["comparison"]["max_slowdown"] == 4
    low, high = cell["comparison"]["ci95"]
    assert low <= cell["comparison"]["ratio"] <= high
    assert not (old / "mobilenet_v2" / "bench.json").exists()
