"""Turns over scripted runners: which cells run beside which, and what is known of their ratios."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import bench
from edgepipe.pipeline.cells.session import Cell
from edgepipe.pipeline.progress import Silent
from edgepipe.pipeline.speed import turns as module
from edgepipe.pipeline.speed.bench_result import BenchResult, CellResult
from edgepipe.pipeline.speed.turns import Schedule, Turns
from edgepipe.pipeline.speed.visits import CONTROL, Entry, Source
from edgepipe.pipeline.storage.workspace import Workspace
from edgepipe.runners.base import RunnerError, RunnerUnavailable, SessionError, WorkerCrashed
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.workers.launch import Worker
from edgepipe.runners.workers.scripted import Script, scripted

from ...made import NAME, VARIANTS, Made

RUNNERS = ("ort-cpu", "openvino")
MS: Mapping[str, float] = {
    f"{runner}/{variant}": 1 + 0.4 * place
    for place, (runner, variant) in enumerate(itertools.product(RUNNERS, VARIANTS))
}
# Beside the reference and its twin there is room for one more.
LITTLE = {"free_mib": 100.0}
CRASH = WorkerCrashed("SIGSEGV")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "artifacts")


def scripts(made: Made, **changes: Any) -> dict[str, Script]:
    """Both runners, each of whose files takes a time of its own."""
    return {
        name: made.script(name.partition("/")[2], **{"ms": ms, **changes})
        for name, ms in MS.items()
    }


def name_of(row: CellResult) -> str:
    return f"{row.runner}/{row.variant}"


def by_name(result: BenchResult) -> dict[str, CellResult]:
    return {name_of(row): row for row in result.cells}


def times_of(rows: tuple[CellResult, ...], result: BenchResult) -> None:
    """Every two rows are compared, and rightly."""
    for one, other in itertools.combinations(rows, 2):
        pair = result.pair(other, one)
        assert pair, (name_of(one), name_of(other))
        expected = MS[name_of(other)] / MS[name_of(one)]
        assert pair.ratio == pytest.approx(expected, rel=0.01)
        assert pair.ci95
        assert pair.ci95[0] <= pair.ratio <= pair.ci95[1]


@dataclass
class Weather:
    """A machine that has another speed whenever all of its workers were started anew."""

    speeds: tuple[float, ...] = (1.0, 3.0, 0.5, 2.0)
    number: int = 0
    alive: list[int] = field(default_factory=list)
    most: int = 0

    def slows(self, ms: float) -> Callable[..., dict[str, Any]]:
        return lambda _settings: {"ms": ms * self.speeds[self.number % len(self.speeds)]}

    @contextmanager
    def over(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Watch the scripted workers come and go."""
        start, close = Worker.start, Worker.close

        def started(worker: Worker) -> None:
            start(worker)
            self.number += not self.alive
            self.alive.append(id(worker))
            self.most = max(self.most, len(self.alive))

        def closed(worker: Worker) -> None:
            close(worker)
            if id(worker) in self.alive:
                self.alive.remove(id(worker))

        with monkeypatch.context() as patch:
            patch.setattr(Worker, "start", started)
            patch.setattr(Worker, "close", closed)
            yield


@pytest.mark.parametrize(("room", "most"), [({}, 7), (LITTLE, 3)], ids=["room", "little room"])
def test_ratios_hold_between_cells_that_were_never_alive_together(
    room: dict[str, Any], most: int, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group meets another machine: only by way of the reference are they comparable."""
    weather = Weather()
    cast = {
        name: made.script(name.partition("/")[2], varies=weather.slows(MS[name]), **room)
        for name in scripts(made)
    }
    with scripted(cast), weather.over(monkeypatch):
        result = bench(workspace=made.root, runners=RUNNERS, generations=5, scenario="offline")
    assert weather.most == most  # with the twin of the reference
    assert [row.status for row in result.cells] == ["ok"] * 6
    assert len(result.pairs) == 15
    times_of(result.cells, result)
    for row in result.cells:
        assert row.speedup == pytest.approx(MS[f"{row.runner}/fp32"] / MS[name_of(row)], rel=0.01)
        assert max(row.generation_ms) > 1.9 * min(row.generation_ms)  # the weather was there


def test_the_meter_counts_in_every_group(made: Made) -> None:
    """It is the last one that takes turns, so that most cells never meet it."""
    with scripted(scripts(made, **LITTLE)):
        result = bench(workspace=made.root, runners=RUNNERS)
    in_meters = {key: row.in_meters for key, row in by_name(result).items()}
    assert {len(found) for found in in_meters.values()} == {8}
    for key, found in in_meters.items():
        assert np.exp(np.mean(np.log(found))) == pytest.approx(MS[key], rel=0.01)


def test_a_control_that_is_far_from_one_widens_every_interval(made: Made) -> None:
    """Two cells that look steady are told apart no better than a pair of equal ones."""

    def result(spread: float) -> BenchResult:
        fp32 = itertools.cycle((1.0, 1.0 + spread))  # the reference and its twin, in turn
        cast = made.scripts("ort-cpu") | {
            "ort-cpu/fp32": made.script(varies=lambda _settings: {"ms": next(fp32)}),
            "ort-cpu/int8": made.script("int8", ms=0.5),
            "ort-cpu/int8-avx2": made.script("int8-avx2", ms=0.51),
        }
        with scripted(cast):
            return bench(workspace=made.root, runners=("ort-cpu",))

    steady, spread = result(0.0), result(0.2)
    widths, verdicts = [], []
    for found in (steady, spread):
        pair = found.pair(found.cells[2], found.cells[1])
        assert pair
        assert pair.ci95
        assert pair.ratio == pytest.approx(1.02, rel=0.001)
        widths.append(math.log(pair.ci95[1] / pair.ci95[0]))
        verdicts.append(pair.verdict)
    assert widths[0] < 0.01
    assert widths[1] > 0.1
    assert verdicts == ["same", "undecided"]


def test_without_others_nothing_runs_twice(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Weather()
    with scripted(scripts(made)), weather.over(monkeypatch):
        bench(workspace=made.root, runners=("ort-cpu",), variants=("int8",), scenario="offline")
    assert weather.most == 1


@pytest.mark.parametrize("operation", ["load", "run", "warm_up", "slice", "finish"])
@pytest.mark.parametrize("lost", ["fp32", "int8"])
@pytest.mark.parametrize("room", [{}, LITTLE], ids=["room", "little room"])
def test_a_cell_that_crashes_in_a_later_generation_loses_only_itself(
    operation: str, lost: str, room: dict[str, Any], made: Made
) -> None:
    loads = itertools.count()
    # In the fourth generation; the reference and its twin are in the turns of all six groups.
    good = 3 * (1 if lost == "int8" else 2 * 6 if room else 2)

    def later(_settings: Any) -> dict[str, Any]:
        return {"fails": {operation: CRASH}} if next(loads) >= good else {}

    cast = scripts(made, **room)
    key = f"ort-cpu/{lost}"
    cast[key] = made.script(lost, ms=MS[key], varies=later, **room)
    with scripted(cast):
        result = bench(workspace=made.root, runners=RUNNERS)
    rows = by_name(result)
    broken = rows.pop(key)
    assert (broken.status, result.exit_code) == ("failed", 5)
    assert "SIGSEGV" in (broken.reason or "")
    # What is in the turns of several groups is started anew in each of them.
    assert all(row.status == "ok" and row.generations in (8, 8 * 6) for row in rows.values())
    times_of(tuple(rows.values()), result)
    alone = room and lost == "fp32"  # what linked the groups was there for a while only
    assert all(len(row.in_meters) == 8 for row in rows.values()) or alone
    assert rows["openvino/int8"].speedup
    assert bool(rows["ort-cpu/int8-avx2"].speedup) == (lost != "fp32")


@pytest.mark.parametrize("room", [{}, LITTLE], ids=["room", "little room"])
@pytest.mark.parametrize(
    ("missing", "error", "status"),
    [
        (("ort-cpu/",), RunnerUnavailable("no library"), "unavailable"),
        (("ort-cpu/fp32",), SessionError("no such operator"), "failed"),
        (("ort-cpu/fp32",), CRASH, "failed"),
        (("ort-cpu/fp32", "openvino/fp32"), CRASH, "failed"),
    ],
    ids=["no runner", "refused", "crash", "no fp32"],
)
def test_without_the_reference_another_cell_is_in_everyones_turns(
    missing: tuple[str, ...],
    error: RunnerError,
    status: str,
    room: dict[str, Any],
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weather = Weather()
    cast = {}
    for name, script in scripts(made, **room).items():
        bad = name.startswith(missing)
        changes = {"varies": weather.slows(MS[name])}
        fine = made.script(name.partition("/")[2], **changes, **room)
        cast[name] = script.failing(load=error) if bad else fine
    with scripted(cast), weather.over(monkeypatch):
        result = bench(workspace=made.root, runners=RUNNERS, scenario="offline")
    bad = [row for row in result.cells if name_of(row).startswith(missing)]
    assert {row.status for row in bad} == {status}
    left = tuple(row for row in result.cells if row not in bad)
    assert all(row.status == "ok" and row.generations >= 8 for row in left)
    times_of(left, result)
    for row in left:
        there = f"{row.runner}/fp32" not in missing and f"{row.runner}/" not in missing
        assert bool(row.speedup) == there


TARGETS = """
[targets.nice]
command = ["nice", "{python}"]
"""


def test_every_target_has_a_reference_of_its_own(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgepipe.toml").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    weather = Weather()
    cast = {
        name: made.script(name.partition("/")[2], varies=weather.slows(MS[name]))
        for name in scripts(made)
    }
    with scripted(cast), weather.over(monkeypatch):
        result = bench(
            workspace=made.root, runners=("ort-cpu",), targets=("local", "nice"), generations=5
        )
    assert weather.most == 5  # three, a twin and the meter: never those of both targets
    assert [row.target for row in result.cells].count("nice") == 3 == len(result.cells) // 2
    assert set(result.meters) == {"local", "nice"}
    for pair in result.pairs:
        assert result.cells[pair.row].target == result.cells[pair.against].target
    for target in ("local", "nice"):
        times_of(tuple(row for row in result.cells if row.target == target), result)
    for row in result.cells:
        assert row.speedup == pytest.approx(MS["ort-cpu/fp32"] / MS[name_of(row)], 0.01)


class Clock:
    """What time it is: slices take what they are said to, and nothing else takes any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> None:
        self.now = 0.0
        self.turns: dict[str, int] = dict.fromkeys(seconds, 0)
        loaded: dict[int, str] = {}
        load, sliced = Worker.load, Worker.slice

        def noted(worker: Worker, runner: str, files: Any, *more: Any, **others: Any) -> Any:
            loaded[id(worker)] = Path(next(iter(files))).stem
            return load(worker, runner, files, *more, **others)

        def taking(worker: Worker) -> None:
            self.now += seconds[loaded[id(worker)]]
            self.turns[loaded[id(worker)]] += 1
            sliced(worker)

        monkeypatch.setattr(Worker, "load", noted)
        monkeypatch.setattr(Worker, "slice", taking)
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


def test_a_slow_cell_has_fewer_turns_and_meets_the_others_in_all_of_them(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"fp32": 0.05, "int8": 0.4, "int8-avx2": 0.05}
    schedule = Schedule(generations=4, seconds=0.8)
    clock = Clock(monkeypatch, seconds)
    cells = [Cell(name, "ort-cpu", LOCAL, "f32", f"{name}.onnx", 1) for name in VARIANTS]
    place = Workspace(made.root, NAME)
    with scripted(scripts(made)), place.exported("edgepipe bench", pytest.fail) as manifest:
        source = Source.of(place, manifest)
        entries = [Entry(cell, source) for cell in cells]
        turns = Turns(entries, schedule, Silent())
        turns.run()
    cycles = [
        [int(np.isfinite(found).sum()) for found in turns.visits[entry].cycles.values()]
        for entry in entries
    ]
    assert schedule.cycles == 16
    assert cycles[0] == cycles[2] == [16] * 4
    assert cycles[1] == [4] * 4  # a quarter, and never fewer than three
    assert clock.turns == {"fp32": 2 * 4 * 16, "int8": 4 * 4, "int8-avx2": 4 * 16}
    for new, old in itertools.combinations(entries, 2):
        found = turns.ratio(new, old)
        assert found
        expected = MS[f"ort-cpu/{new.cell.variant}"] / MS[f"ort-cpu/{old.cell.variant}"]
        assert found.value == pytest.approx(expected, rel=0.01)
        assert len(turns.logs(new, old)) == 4
    assert [entry.role for entry in turns.visits if entry.role] == [CONTROL]


@pytest.mark.parametrize(("asked", "slow"), [(8, 4), (5, 3), (4, 4), (3, 3)])
def test_what_takes_long_to_load_is_started_in_every_second_generation_if_enough_are_left(
    asked: int, slow: int, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, dict.fromkeys(VARIANTS, 0.05))
    loaded = Worker.load

    def slowly(worker: Worker, runner: str, files: Any, *more: Any, **others: Any) -> Any:
        clock.now += 20.0 if "int8.onnx" in files else 0.1
        return loaded(worker, runner, files, *more, **others)

    monkeypatch.setattr(Worker, "load", slowly)
    # Also without the meter, which has no file.
    with scripted(scripts(made)):
        result = bench(
            workspace=made.root, runners=("ort-cpu",), scenario="offline", generations=asked
        )
    rows = by_name(result)
    assert rows["ort-cpu/int8"].generations == slow
    assert rows["ort-cpu/fp32"].generations == asked
    times_of(result.cells, result)


@pytest.mark.parametrize(
    ("seconds", "slice_seconds", "period"),
    [(0.4, 0.01, 1), (0.4, 0.09, 1), (0.4, 0.2, 2), (0.4, 5.0, 2), (1.6, 5.0, 8), (0.15, 9.0, 1)],
)
def test_a_slower_slice_has_a_longer_period(
    seconds: float, slice_seconds: float, period: int
) -> None:
    assert Schedule(seconds=seconds).period(slice_seconds) == period


def test_a_group_has_no_more_cells_than_take_turns_well(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_TURNS", 4)
    weather = Weather()
    with scripted(scripts(made)), weather.over(monkeypatch):
        result = bench(workspace=made.root, runners=RUNNERS, scenario="offline")
    assert weather.most == 4
    assert len(result.pairs) == 15
    times_of(result.cells, result)
