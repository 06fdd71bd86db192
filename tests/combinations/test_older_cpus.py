"""Targets that compute as an older CPU, in every command that has targets: estimates, said so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import bench, evaluate, parity
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import Made
from .outcomes import Done, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
BOTH = ("local", "isa-avx2")
SAYS = "estimate: this CPU computing as AVX2"


def cast(made: Made) -> dict[str, Script]:
    """fp32 takes twice as long as the others."""
    scripts = made.scripts("openvino")
    return {
        key: made.script(key.partition("/")[2] or "fp32", ms=1.0 if "int8" in key else 2.0)
        for key in scripts
    }


def test_bench_says_that_it_is_an_estimate_and_compares_within_the_target(make: Make) -> None:
    with scripted(cast(make())):
        result = bench(runners=("openvino",), targets=BOTH)
    assert result.exit_code == 0
    for cell in result.cells:
        capped = cell.target == "isa-avx2"
        assert (cell.notes[:1] == (f"{SAYS} (oneDNN: Intel AVX2)",)) == capped
        assert cell.isa == ("Intel AVX2" if capped else None)
        assert cell.verdict == "valid", "an estimate is one of a sound measurement"
        assert cell.speedup == pytest.approx(2.0 if cell.variant != "fp32" else 1.0, rel=0.01)
    assert result.hosts["isa-avx2"]["isa"] == "AVX2"
    assert result.hosts["isa-avx2"]["cpu_flags"] == ["avx2"]
    assert "isa" not in result.hosts["local"]


@pytest.mark.parametrize("name", ["parity", "evaluate"])
def test_what_is_judged_there_has_a_line_that_says_so(
    name: str, make: Make, command: Run, photos: Path, tmp_path: Path
) -> None:
    with scripted(cast(make())):
        flags: list[object] = ["--data", photos] if name == "evaluate" else []
        done = command(name, "-r", "openvino", "-t", "local", "-t", "isa-avx2", *flags)
        (there,) = (line for line in done.out.splitlines() if SAYS in line)
        assert there == f"  isa-avx2: {SAYS} (oneDNN: Intel AVX2)"
        run: Callable[..., Any] = {"parity": parity, "evaluate": evaluate}[name]
        more: dict[str, Any] = {"data": photos} if name == "evaluate" else {}
        result = run(runners=("openvino",), targets=("isa-avx2",), **more)
    assert {cell.isa for cell in result.cells if cell.target == "isa-avx2"} == {"Intel AVX2"}
    valid_files(tmp_path)


def test_predict_says_as_what_it_computed(make: Make, command: Run, photos: Path) -> None:
    with scripted(cast(make())):
        done = command("predict", photos, "-r", "openvino", "-t", "isa-avx2")
        assert "isa-avx2: this CPU computing as an older one (oneDNN: Intel AVX2)" in done.out
        done = command("predict", photos, "-t", "isa-avx2")
    assert done.code == 5
    one_line(done.error)
    assert "ort-cpu can't compute as AVX2" in done.error


@pytest.mark.parametrize("name", ["tune", "compare"])
def test_what_is_for_a_machine_is_refused_there(name: str, make: Make, command: Run) -> None:
    with scripted(cast(make())):
        flags = ("--workspace", "artifacts") if name == "compare" else ()
        done = command(name, "-r", "openvino", "-t", "isa-avx2", *flags)
    assert (done.code, done.out) == (2, "")
    assert "target isa-avx2 is this CPU computing as another one" in done.error


def test_a_baseline_of_another_class_is_none(make: Make, tmp_path: Path) -> None:
    made = make(variants=("fp32",))
    asked: dict[str, Any] = {"runners": ("openvino",), "targets": ("old",)}
    target = '[targets.old]\ncommand = ["nice", "{python}"]\nisa = '
    with scripted(cast(made)):
        (tmp_path / "edgepipe.toml").write_text(target + '"avx2"\n')
        bench(**asked)
        earlier = (made.folder / "bench.json").rename(tmp_path / "earlier.json")
        (tmp_path / "edgepipe.toml").write_text(target + '"avx512-core"\n')
        (cell,) = bench(**asked, baseline=earlier).cells
    assert cell.comparison
    assert cell.comparison.verdict == "inconclusive"
    assert cell.comparison.reason == "another machine: isa was AVX2"
