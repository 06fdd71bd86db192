"""The gate on speed: alarms for what is slower beyond doubt, and for nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline.errors import InputError
from edgepipe.pipeline.speed.baseline import Baseline
from edgepipe.pipeline.speed.bench_result import CellResult
from edgepipe.pipeline.speed.regression import compare

Run = Callable[..., CompletedProcess[str]]
LIMIT = 0.05
ONE_CELL = ("--runner", "ort-cpu", "--variant", "int8", "--threads", "1", "--quiet")
HOST = {"cpu": "Abacus 9000", "physical_cores": 2}


def rounds(generator: np.random.Generator, factor: float, noise: float = 0.02) -> list[float]:
    return list(5 * factor * generator.normal(1, noise, 10))


@pytest.mark.parametrize("paired", [True, False])
def test_10_percent_is_caught_and_no_change_raises_no_alarm(paired: bool) -> None:
    generator = np.random.default_rng(1)
    caught = alarms = passed = 0
    for _ in range(200):
        old = rounds(generator, 1.0)
        caught += compare(rounds(generator, 1.10), old, LIMIT, paired=paired).verdict == "fail"
        verdict = compare(rounds(generator, 1.0), old, LIMIT, paired=paired).verdict
        alarms += verdict == "fail"
        passed += verdict == "pass"
    assert caught >= 0.95 * 200
    assert alarms <= 0.05 * 200
    assert passed >= 0.9 * 200


def test_a_slowdown_within_the_limit_passes_and_one_at_the_limit_is_inconclusive() -> None:
    generator = np.random.default_rng(2)
    old = rounds(generator, 1.0, noise=0.005)
    within = compare(rounds(generator, 1.02, noise=0.005), old, LIMIT, paired=False)
    at = compare(rounds(generator, 1.05, noise=0.03), old, LIMIT, paired=False)
    assert (within.verdict, at.verdict) == ("pass", "inconclusive")
    assert within.ratio == pytest.approx(1.02, abs=0.01)


def test_few_rounds_prove_nothing() -> None:
    found = compare([5.0] * 4, [1.0] * 10, LIMIT, paired=False)
    assert found.verdict == "inconclusive"
    assert "too few rounds" in (found.reason or "")


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
        round_ms=(2.0,) * 6,
    )
    return replace(cell, **changes)


def baseline(*rows: CellResult) -> Baseline:
    return Baseline(rows, {"local": HOST}, Path("bench.json"))


@pytest.mark.parametrize(
    ("old", "new", "host", "says"),
    [
        (row(runner="openvino"), row(), HOST, "not in bench.json"),
        (row(), row(), {**HOST, "cpu": "Abacus 1"}, "another machine"),
        (row(threads=1), row(), HOST, "threads was 1, now 2"),
        (row(options={"spinning": False}), row(), HOST, "options was {'spinning': False}, now {}"),
        (row(verdict="noisy"), row(), HOST, "the baseline is noisy"),
        (row(), row(verdict="noisy"), HOST, "the measurement is noisy"),
    ],
)
def test_what_cant_be_compared_is_inconclusive(
    old: CellResult, new: CellResult, host: dict[str, Any], says: str
) -> None:
    found = baseline(old).compare(new, host, LIMIT)
    assert found.verdict == "inconclusive"
    assert says in (found.reason or "")


def test_the_same_cell_is_found_by_all_that_makes_it_the_same() -> None:
    slower = row(round_ms=(2.2,) * 6)
    assert baseline(row(batch=4), row()).compare(slower, HOST, LIMIT).verdict == "fail"
    assert baseline(row(batch=4), row()).compare(slower, HOST, 0.15).verdict == "pass"


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
    flags = (*ONE_CELL, "--seconds", "0.05", "--rounds", "5", "--workspace", workspace)
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
