"""bench: its verdicts on made-up measurements, and the whole command on the real workspace.

What it says of runners that are missing, fail or are named is in tests/combinations.
"""

from __future__ import annotations

import json
import re
import statistics as stats
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import bench
from edgepipe.pipeline.cells.session import Cell
from edgepipe.pipeline.speed.validity import judge
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.timing.conditions import Conditions
from edgepipe.runners.timing.measure import Measurement

Run = Callable[..., CompletedProcess[str]]
FP32 = Cell("fp32", "ort-cpu", LOCAL, "f32", "fp32.onnx", 1)
INT8 = Cell("int8", "ort-cpu", LOCAL, "f32", "int8.onnx", 1)
REFERENCE_DB = 120.0


def measurement(
    milliseconds: float = 2.0,
    *,
    rising: float = 0.0,
    deviation: float = 0.0,
    settled: bool = True,
    samples: int = 300,
    rests: bool = True,
    **conditions: Any,
) -> Measurement:
    taken = milliseconds * 1e6 * np.linspace(1, 1 + rising, samples)
    circumstances = Conditions(seconds=1.0, **conditions)
    return Measurement(
        taken.astype(np.int64),
        50,
        settled,
        deviation,
        circumstances,
        slices=(samples,),
        rests=rests,
    )


FOUR = [measurement()] * 4
TWO = [measurement()] * 2


def test_equal_generations_are_valid() -> None:
    assert judge(FP32, [measurement()] * 5, [118.0], REFERENCE_DB) == ("valid", ())


@pytest.mark.parametrize(
    ("cell", "sqnr_db"), [(FP32, 60.0), (INT8, -2.0), (INT8, -np.inf), (FP32, 21.0)]
)
def test_wrong_outputs_make_a_cell_invalid(cell: Cell, sqnr_db: float) -> None:
    verdict, notes = judge(cell, [measurement()] * 5, [118.0, sqnr_db], REFERENCE_DB)
    assert verdict == "invalid"
    assert "wrong outputs" in notes[0]


def test_the_errors_of_healthy_int8_are_not_wrong_outputs() -> None:
    assert judge(INT8, [measurement()] * 5, [28.0], REFERENCE_DB)[0] == "valid"


def test_outputs_that_change_only_while_timed_make_a_cell_invalid() -> None:
    verdict, notes = judge(FP32, [measurement(deviation=0.2)], [118.0], REFERENCE_DB)
    assert verdict == "invalid"
    assert "while timed" in notes[0]


@pytest.mark.parametrize(
    ("measurements", "says"),
    [
        ([*FOUR, measurement(2.5)], "generations differ by 25%"),
        ([measurement(rising=0.5)] * 5, "drifted"),
        ([*FOUR, measurement(steal_percent=7.0)], "7 % of the CPU time was stolen"),
        ([*FOUR, measurement(others_percent=30.0)], "other processes took 30 % of the CPU time"),
        ([*FOUR, measurement(throttled=3)], "slowed down 3 times because of its heat"),
        ([*FOUR, measurement(rests=False)], "idle threads keep the CPU busy"),
        (TWO, "too few generations: 2, at least 3"),
        ([measurement(samples=9)] * 5, "too few samples: 45, at least 64"),
    ],
)
def test_what_makes_a_cell_noisy(measurements: list[Measurement], says: str) -> None:
    verdict, notes = judge(FP32, measurements, [118.0], REFERENCE_DB)
    assert verdict == "noisy"
    assert len(notes) == 1
    assert says in notes[0]


def test_bench_on_the_default_workspace(workspace: Path, edgepipe: Run) -> None:
    done = edgepipe("bench", "--quick", "--json", "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((workspace / "mobilenet_v2" / "bench.json").read_text())
    assert document["schema_version"] == 2
    assert document["quick"] is True
    every = {(cell["variant"], cell["runner"]): cell for cell in document["cells"]}
    elsewhere = (
        "ort-openvino",
        "ort-cuda",
        "ort-tensorrt",
    )  # in environments of their own, here or not
    cells = {key: cell for key, cell in every.items() if key[1] not in elsewhere}
    assert set(cells) == {
        ("fp32", "torch"),
        *((v, r) for v in ("fp32", "int8", "int8-avx2") for r in ("ort-cpu", "openvino")),
    }
    manifest = json.loads((workspace / "mobilenet_v2" / "manifest.json").read_text())
    for (variant, runner), cell in cells.items():
        assert cell["status"] == "ok", cell["reason"]
        assert cell["verdict"] == "noisy"  # whatever it says, a quick run proves nothing
        assert cell["precision"] == "f32"
        assert cell["batch"] == 1
        assert sum(cell["placement"].values()) == 100
        latency = cell["latency_ms"]
        # What takes long to set up has a single generation in a quick bench, and no interval.
        assert (latency["ci95"] is None) == (cell["generations"] == 1)
        low, high = latency["ci95"] or (latency["p50"], latency["p50"])
        assert low <= latency["p50"] <= high
        assert cell["samples"] >= 15
        assert (latency["p90"] is None) == (cell["samples"] < 64)
        assert cell["sqnr_db"] > (15 if variant.startswith("int8") else 80)
        assert cell["load_ms"] > 0
        assert cell["first_inference_ms"] > 0
        assert cell["peak_rss_mib"] > 20
        file = manifest["variants"][variant]["pt2" if runner == "torch" else "onnx"]
        assert cell["size_bytes"] == manifest["artifacts"][file]["size"]
    assert cells["fp32", "ort-cpu"]["speedup"] == 1
    int8 = cells["int8", "openvino"]
    assert int8["against_reference"] in ("faster", "slower", "same", "undecided")
    assert int8["speedup_ci95"][0] <= int8["speedup"] <= int8["speedup_ci95"][1]
    measured = [number for number, cell in enumerate(document["cells"]) if cell["status"] == "ok"]
    assert len(document["pairs"]) == len(measured) * (len(measured) - 1) // 2
    assert {pair["row"] for pair in document["pairs"]} == set(measured[1:])
    assert all(len(cell["in_meters"]) == cell["generations"] for cell in cells.values())
    assert cells["int8", "openvino"]["convolutions"]["int8"] >= 51
    assert len({cell["threads"] for cell in cells.values()}) == 1


def test_bf16_is_a_cell_of_its_own_and_never_called_f32(workspace: Path) -> None:
    result = bench(
        workspace=workspace,
        runners=("openvino",),
        variants=("fp32",),
        precisions=("f32", "bf16"),
        quick=True,
    )
    if "avx512_bf16" not in result.host["cpu_flags"]:
        pytest.skip("this CPU has no AVX512_BF16, where OpenVINO would use it")
    f32, bf16 = result.cells
    assert (f32.precision, bf16.precision) == ("f32", "bf16")
    assert f32.sqnr_db
    assert bf16.sqnr_db
    assert f32.sqnr_db > 80 > 40 > bf16.sqnr_db


def test_a_missing_library_is_said_with_what_installs_it(
    workspace: Path, edgepipe: Run, tmp_path: Path
) -> None:
    # An interpreter without onnxruntime: the worker runs, the library is not there.
    site = tmp_path / "blocked"
    site.mkdir()
    (site / "onnxruntime.py").write_text("raise ImportError('no onnxruntime here')")
    flags = ("bench", "--quick", "--variant", "fp32", "--runner", "ort-cpu")
    done = edgepipe(*flags, "--workspace", workspace, env={"PYTHONPATH": str(site)})
    assert done.returncode == 5
    assert "ort-cpu: unavailable: no onnxruntime here; pip install" in done.stdout
    assert not re.search(r"^ *fp32 +ort-cpu ", done.stdout, re.MULTILINE)


def test_every_sample_is_kept_beside_the_figures(workspace: Path, edgepipe: Run) -> None:
    flags = ("--runner", "ort-cpu", "--variant", "int8", "--generations", "2", "--seconds", "0.1")
    done = edgepipe("bench", "--json", "--quiet", *flags, "--workspace", workspace)
    assert (done.returncode, done.stderr) == (0, "")
    (cell,) = json.loads(done.stdout)["cells"]
    samples = np.load(workspace / "mobilenet_v2" / "bench.npz")
    assert len(samples["0"]) == cell["samples"] == samples["0.generations"].sum()
    assert samples["0"].mean() / 1e6 == pytest.approx(cell["latency_ms"]["mean"])
    assert stats.geometric_mean(cell["generation_ms"]) == pytest.approx(cell["latency_ms"]["p50"])
    assert len(cell["generation_ms"]) == cell["generations"] == 2
    assert cell["load_cached_ms"] > 0
    assert any("too few generations" in note for note in cell["notes"])
    assert cell["energy_mj"] is None or cell["energy_mj"] > 0


def test_offline_and_server_through_the_command_line(workspace: Path, edgepipe: Run) -> None:
    flags = ("--quick", "--json", "--variant", "int8", "--workspace", workspace)
    flags = (*flags, "--runner", "ort-cpu")
    done = edgepipe("bench", "--scenario", "offline", *flags)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["latency_ms"] is None
    low, high = cell["throughput_ci95"]
    assert 0 < low <= cell["throughput_per_s"] <= high
    assert cell["streams"] >= 1
    done = edgepipe("bench", "--scenario", "server", "--rate", "20", *flags)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["rate"] == 20
    assert cell["latency_ms"]["p50"] > 0


@pytest.mark.long
def test_a_sweep_ends_where_throughput_stops_growing(edgepipe: Run, tmp_path: Path) -> None:
    small = ("--weights", "random", "--input-size", "32", "--variant", "fp32", "--quiet")
    place = ("--workspace", tmp_path / "small")
    done = edgepipe("export", "--batch", "dynamic", *small, *place)
    assert done.returncode == 0, done.stderr
    flags = ("--quick", "--json", "--batch", "sweep", "--scenario", "offline")
    done = edgepipe("bench", *flags, "--runner", "ort-cpu", *place)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)["cells"]
    assert [row["batch"] for row in rows] == [2**n for n in range(len(rows))]
    gains = [b["throughput_per_s"] / a["throughput_per_s"] for a, b in pairwise(rows)]
    assert all(gain > 1.05 for gain in gains[:-1])
    assert len(rows) == 8 or gains[-1] <= 1.05
