"""What speaks against a measurement, where nodes run, what a baseline says: × bench and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, tune
from edgepipe.runners.base import RunnerError, SessionError, WorkerCrashed
from edgepipe.runners.workers.scripted import HOST, scripted

from ..made import Made
from .outcomes import Done, case, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNER = "ort-cpu"
CPU, GPU = "CPUExecutionProvider", "GPUExecutionProvider"
ONE = ("--runner", RUNNER, "--json", "--quiet")
TURBO: dict[str, Any] = {
    "tunables": {"turbo": (True,)},
    "varies": lambda settings: {"ms": 0.5} if settings.options.get("turbo") else {},
}

DOUBTS: Mapping[str, tuple[dict[str, Any], tuple[object, ...], str, int, str]] = {
    # fields of the script, flags -> verdict, exit code, what is said
    "nothing": ({}, (), "valid", 0, ""),
    "others": ({"conditions": {"others_percent": 30.0}}, (), "noisy", 0, "took 30 %"),
    "steal": ({"conditions": {"steal_percent": 7.0}}, (), "noisy", 0, "7 % of the CPU time was"),
    "heat": ({"conditions": {"throttled": 3}}, (), "noisy", 0, "because of its heat"),
    "few samples": ({"samples": 9}, ("--generations", 3), "noisy", 0, "too few samples"),
    "one sample": ({"samples": 1}, ("--generations", 3), "noisy", 0, "too few samples"),
    "few generations": ({}, ("--generations", 2), "noisy", 0, "too few generations"),
    "one generation": ({}, ("--generations", 1), "noisy", 0, "too few generations"),
    "quick": ({}, ("--quick",), "noisy", 0, "smoke test"),
    "other answers while timed": ({"deviation": 0.2}, (), "invalid", 1, "while timed"),
    "NaN while timed": ({"deviation": float("inf")}, (), "invalid", 1, "while timed"),
    "and quick": ({"deviation": 0.2}, ("--quick",), "invalid", 1, "while timed"),
    "overloaded": (
        {"conditions": {"seconds": 50.0}},
        ("--scenario", "server", "--rate", 100),
        "invalid",
        1,
        "overloaded",
    ),
    "energy": ({"conditions": {"energy_j": 5.0}}, (), "valid", 0, ""),
    "cold": ({}, ("--scenario", "cold"), "valid", 0, ""),
    "microseconds": ({"ms": 0.004}, (), "valid", 0, ""),
    "minutes": ({"ms": 1e5}, (), "valid", 0, ""),
    "a cache": ({"cache": {"model.bin": b"x"}}, (), "valid", 0, ""),
}


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("fields", "flags", "verdict", "code", "says"),
    [case(*row, id=name.replace(" ", "_")) for name, row in DOUBTS.items()],
)
def test_a_measurement_says_what_speaks_against_it(
    fields: dict[str, Any],
    flags: tuple[object, ...],
    verdict: str,
    code: int,
    says: str,
    variant: str,
    make: Make,
    command: Run,
    tmp_path: Path,
) -> None:
    made = make()
    with scripted(made.scripts(RUNNER, **fields)):
        done = command("bench", "--variant", variant, *ONE, *flags)
        shown = command("bench", "--variant", variant, *ONE[:2], "--quiet", *flags)
    (cell,) = done.document["cells"]
    assert (cell["verdict"], done.code) == (verdict, code), cell["notes"]
    assert any(says in note for note in cell["notes"]) if says else cell["notes"] == []
    assert shown.code == code
    assert says in " ".join(shown.out.split())
    assert max(map(len, shown.out.splitlines())) <= 100
    assert (cell["energy_mj"] is None) == ("energy_j" not in fields.get("conditions", {}))
    assert (cell["load_cached_ms"] is None) == ("cache" not in fields or "--quick" in flags)
    valid_files(tmp_path)


def test_a_table_fits_100_columns_whatever_the_cpu_is_called(make: Make, command: Run) -> None:
    flags = ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"]
    host = {**HOST, "cpu_flags": [*flags, "amx_tile", "amx_int8", "amx_bf16"]}
    host |= {"cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "virtual_machine": True}
    made = make()
    with scripted(made.scripts(RUNNER), host=host):
        for name in ("bench", "parity", "tune"):
            done = command(name, "--runner", RUNNER, "--quiet")
            assert max(map(len, done.out.splitlines())) <= 100, name
            assert name != "bench" or "AMX_BF16" in done.out


@pytest.mark.parametrize(
    "error",
    [
        case(SessionError("no cache"), id="no cache"),
        case(WorkerCrashed("SIGSEGV"), id="crash"),
    ],
)
def test_a_failed_load_from_the_cache_loses_no_measurement(
    error: RunnerError, make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    with scripted({RUNNER: made.script().failing(cache=error)}):
        done = command("bench", *ONE)
    (cell,) = done.document["cells"]
    assert (done.code, cell["status"], cell["generations"] > 4) == (0, "ok", True)
    assert cell["load_cached_ms"] is None


PLACED: Mapping[str, tuple[dict[str, Any], tuple[str, ...], tuple[int, int]]] = {
    # placement, flags -> exit codes of parity and bench
    "all there": ({}, (), (0, 0)),
    "all there, required": ({}, ("--require-ep", "CPU=100%"), (0, 0)),
    "another required": ({}, ("--require-ep", "CUDA=1%"), (1, 1)),
    "a tenth elsewhere": ({"nodes": {CPU: 9, GPU: 1}}, (), (1, 1)),
    "a tenth, allowed": ({"nodes": {CPU: 9, GPU: 1}}, ("--allow-fallback",), (0, 0)),
    "a tenth, allowed, less required": (
        {"nodes": {CPU: 9, GPU: 1}},
        ("--allow-fallback", "--require-ep", "CPU=90%"),
        (0, 0),
    ),
    "a tenth, allowed, more required": (
        {"nodes": {CPU: 9, GPU: 1}},
        ("--allow-fallback", "--require-ep", "CPU=91%"),
        (1, 1),
    ),
    "all elsewhere": ({"nodes": {GPU: 10}}, (), (1, 1)),
    "all elsewhere, allowed": ({"nodes": {GPU: 10}}, ("--allow-fallback",), (1, 1)),
    "not said": ({"provider": "", "nodes": {"somewhere": 10}}, (), (0, 0)),
    "not said, required": (
        {"provider": "", "nodes": {"somewhere": 10}},
        ("--require-ep", "CPU=1%"),
        (1, 1),
    ),
    "no nodes": ({"nodes": {}}, (), (0, 0)),
    "another precision": ({"precision": "bf16"}, (), (1, 0)),
}


@pytest.mark.parametrize("name", ["parity", "bench"])
@pytest.mark.parametrize(
    ("placement", "flags", "codes"),
    list(PLACED.values()),
    ids=[name.replace(" ", "_") for name in PLACED],
)
def test_a_cell_is_where_it_was_asked_for_or_fails(
    name: str,
    placement: dict[str, Any],
    flags: tuple[str, ...],
    codes: tuple[int, int],
    make: Make,
    command: Run,
    tmp_path: Path,
) -> None:
    made = make(variants=("fp32",))
    with scripted(made.scripts(RUNNER, placement=placement)):
        done = command(name, *ONE, *flags)
    code = codes[name == "bench"]
    document = done.document
    (cell,) = document["cells"]
    assert done.code == code, done.said
    if cell["status"] == "ok":
        assert cell["nodes"] == placement.get("nodes", {CPU: 10})
        assert cell["precision"] == placement.get("precision", "f32")
        fell = placement.get("nodes", {}).get(GPU, 0)
        assert name == "parity" or fell == 0 or any("fallback" in note for note in cell["notes"])
    valid_files(tmp_path)


SLOWDOWNS = {"faster": (0.9, "pass", 0), "equal": (1.0, "pass", 0), "slower": (1.2, "fail", 1)}


def earlier(made: Made, against: str, root: Path, *, tuned: bool = False) -> dict[str, Any]:
    """How it was before, in 1 ms: the flags that name it, and the scripts of its files."""
    old = replace(made, root=root / "old", edition="old")
    scripts = old.scripts(RUNNER, **TURBO)
    with scripted(scripts):
        if tuned:
            tune(workspace=old.root, runners=(RUNNER,))
        bench(workspace=old.root, runners=(RUNNER,))
    if against == "a workspace":
        known = {f"{RUNNER}/{old.digest(one)}": scripts[f"{RUNNER}/{one}"] for one in old.variants}
        return {"flags": ("--rerun-baseline", old.root), "scripts": known}
    return {"flags": ("--baseline", old.folder / "bench.json"), "scripts": {}}


@pytest.mark.parametrize("limit", ["5%", "30%"])
@pytest.mark.parametrize("against", ["a file", "a workspace"])
@pytest.mark.parametrize(
    ("factor", "verdict", "code"), list(SLOWDOWNS.values()), ids=list(SLOWDOWNS)
)
def test_slower_than_it_was_is_a_failed_gate(
    factor: float,
    verdict: str,
    code: int,
    against: str,
    limit: str,
    make: Make,
    command: Run,
    tmp_path: Path,
) -> None:
    made = make(variants=("fp32", "int8"))
    before = earlier(made, against, tmp_path)
    with scripted(made.scripts(RUNNER, ms=factor) | before["scripts"]):
        done = command("bench", *ONE, *before["flags"], "--max-slowdown", limit)
    if limit == "30%":
        verdict, code = "pass", 0
    elif against == "a file" and factor == 1.0:
        verdict, code = "inconclusive", 6  # a file carries no limit of 5 %
    assert done.code == code, done.said
    for cell in done.document["cells"]:
        comparison = cell["comparison"]
        assert comparison["verdict"] == verdict
        assert comparison["ratio"] == pytest.approx(factor, rel=0.01)
        low, high = comparison["ci95"]
        assert low <= comparison["ratio"] * 1.001
        assert high >= comparison["ratio"] * 0.999
    valid_files(tmp_path)


def change(path: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    alter(document)
    path.write_text(json.dumps(document))


OTHERWISE: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "another CPU": lambda document: document["hosts"]["local"].update(cpu="Another"),
    "other cores": lambda document: document["hosts"]["local"].update(physical_cores=64),
    "other threads": lambda document: document["cells"][0].update(threads=1),
    "wrong then": lambda document: document["cells"][0].update(verdict="invalid"),
    "quick then": lambda document: document.update(quick=True),
    "another meter": lambda document: document["meters"]["local"].update(numpy="1.0"),
    "no meter": lambda document: document.update(meters={}),
    "failed then": lambda document: document["cells"][0].update(status="failed"),
    "not there": lambda document: document["cells"][0].update(variant="int8"),
    "another runner": lambda document: document["cells"][0].update(runner="openvino"),
    "another precision": lambda document: document["cells"][0].update(precision="bf16"),
    "another device": lambda document: document["cells"][0].update(device="GPU"),
    "another batch": lambda document: document["cells"][0].update(batch=8),
    "another scenario": lambda document: document["cells"][0].update(scenario="offline"),
    "few generations": lambda document: document["cells"][0].update(in_meters=[1.0] * 2),
}


@pytest.mark.parametrize(
    "alter", list(OTHERWISE.values()), ids=[n.replace(" ", "_") for n in OTHERWISE]
)
def test_what_cant_be_compared_is_inconclusive_with_the_reason(
    alter: Callable[[dict[str, Any]], None], make: Make, command: Run, tmp_path: Path
) -> None:
    made = make(variants=("fp32",))
    flags = earlier(made, "a file", tmp_path)["flags"]
    change(flags[1], alter)
    with scripted(made.scripts(RUNNER)):
        done = command("bench", *ONE, *flags)
    (cell,) = done.document["cells"]
    assert done.code == 6
    assert (cell["comparison"]["verdict"], cell["comparison"]["ratio"]) == ("inconclusive", None)
    assert cell["comparison"]["reason"]


@pytest.mark.parametrize(
    ("against", "before", "now"),
    [
        case(
            against,
            before,
            now,
            id=f"{against}-{before}-{now}",
        )
        for against in ("a file", "a workspace")
        for before in ("tuned", "default")
        for now in ("tuned", "default")
    ],
)
def test_tuned_is_never_held_against_untuned(
    against: str, before: str, now: str, make: Make, command: Run, tmp_path: Path
) -> None:
    """Two that differ in their settings are no proof of a change of the model."""
    made = make(variants=("fp32",))
    old = earlier(made, against, tmp_path, tuned=before == "tuned")
    with scripted(made.scripts(RUNNER, **TURBO) | old["scripts"]):
        if now == "tuned":
            tune(runners=(RUNNER,))
        done = command("bench", *ONE, *old["flags"])
    (cell,) = done.document["cells"]
    comparison = cell["comparison"]
    assert cell["tuned"] == (now == "tuned")
    if before == now:
        assert (comparison["verdict"], done.code) == ("pass", 0)
    assert comparison["ratio"] is None or comparison["ratio"] == pytest.approx(1, rel=0.01)
