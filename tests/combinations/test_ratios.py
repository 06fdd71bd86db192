"""bench against its reference: verdicts of ratios, what --require asks of them, what is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from edgepipe.pipeline import bench
from edgepipe.runners.base import WorkerCrashed
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import Made
from .outcomes import Done, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNER = "ort-cpu"
ORT = ("--runner", RUNNER, "--quiet")
LUCK = 0.03
# The time of int8 where fp32 takes 1 ms and the luck of its processes -> the verdict.
AGAINST = {
    "faster": (0.5, 0.0),
    "slower": (1.5, 0.0),
    "same": (1.02, 0.0),
    "undecided": (1.03, LUCK),
}
BUSY = {"conditions": {"others_percent": 30.0}}


def cast(made: Made, ms: float, luck: float = 0.0, **changes: Any) -> dict[str, Script]:
    """fp32 takes 1 ms, int8 the time that is given."""
    return {
        f"{RUNNER}/fp32": made.script(**changes),
        f"{RUNNER}/int8": made.script("int8", ms=ms, luck=luck, **changes),
    }


@pytest.fixture
def made(make: Make) -> Made:
    return make(variants=("fp32", "int8"))


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
@pytest.mark.parametrize(
    ("ms", "luck", "verdict"),
    [(*times, verdict) for verdict, times in AGAINST.items()],
    ids=list(AGAINST),
)
def test_the_document_says_how_a_cell_compares_with_its_reference(
    ms: float, luck: float, verdict: str, scenario: str, made: Made, command: Run
) -> None:
    with scripted(cast(made, ms, luck)):
        done = command("bench", *ORT, "--scenario", scenario, "--json")
    document = done.document
    fp32, int8 = document["cells"]
    assert (document["reference"], done.code) == ("fp32", 0)
    assert (fp32["speedup"], fp32["against_reference"]) == (1.0, None)
    assert int8["against_reference"] == verdict
    low, high = int8["speedup_ci95"]
    assert low <= int8["speedup"] <= high
    if not luck:
        assert int8["speedup"] == pytest.approx(1 / ms, rel=0.01)
    (pair,) = document["pairs"]
    assert (pair["against"], pair["row"], pair["verdict"]) == (0, 1, verdict)
    assert pair["ratio"] * int8["speedup"] == pytest.approx(1)
    assert pair["ci95"][0] * high == pytest.approx(1)
    valid_files(made.root)


@pytest.mark.parametrize("generations", [1, 2])
def test_few_generations_decide_nothing_and_lose_nothing(
    generations: int, made: Made, command: Run
) -> None:
    with scripted(cast(made, 0.5)):
        shown = command("bench", *ORT, "--generations", generations)
        done = command("bench", *ORT, "--generations", generations, "--json")
    _, int8 = done.document["cells"]
    assert (shown.code, done.code, int8["status"]) == (0, 0, "ok")
    assert int8["against_reference"] == "undecided"
    assert int8["speedup"] == pytest.approx(2, rel=0.01)
    assert (int8["speedup_ci95"] is None) == (generations == 1)
    assert "undecided" in shown.out
    valid_files(made.root)


def test_a_pair_reads_the_same_from_both_of_its_ends(made: Made) -> None:
    with scripted(cast(made, 0.5)):
        result = bench(runners=(RUNNER,))
    fp32, int8 = result.cells
    there, back = result.pair(int8, fp32), result.pair(fp32, int8)
    assert there
    assert back
    assert (there.verdict, back.verdict) == ("faster", "slower")
    assert (there.against, there.row) == (back.row, back.against) == (0, 1)
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.ci95
    assert back.ci95
    assert there.ci95[0] * back.ci95[1] == pytest.approx(1) == there.ci95[1] * back.ci95[0]
    assert (back.turned.verdict, back.turned.ratio) == ("faster", pytest.approx(there.ratio))
    assert result.pair(fp32, fp32) is None


REQUIRED: dict[str, tuple[tuple[str, ...], str, dict[str, Any], int, str]] = {
    # what is required, how int8 compares, the script -> exit code, what is said
    "nothing": ((), "undecided", BUSY, 0, ""),
    "valid, and it is": (("valid",), "slower", {}, 0, ""),
    "valid, but noisy": (("valid",), "faster", BUSY, 6, "noisy, valid is required"),
    "decided, and it is": (("decided",), "slower", BUSY, 0, ""),
    "decided, as the same": (("decided",), "same", {}, 0, ""),
    "decided, but it isn't": (("decided",), "undecided", {}, 6, "undecided against fp32"),
    "faster, and it is": (("faster",), "faster", BUSY, 0, ""),
    "faster, but the same": (("faster",), "same", {}, 1, "as fast as fp32, faster is"),
    "faster, but slower": (("faster",), "slower", {}, 1, "slower than fp32, faster is"),
    "faster, but undecided": (("faster",), "undecided", {}, 6, "undecided against fp32"),
    "both, one failed": (("valid", "faster"), "slower", BUSY, 1, "slower than fp32, faster"),
    "both, none failed": (("valid", "faster"), "undecided", BUSY, 6, "undecided against"),
    "both, fine": (("valid", "faster"), "faster", {}, 0, ""),
}


@pytest.mark.parametrize(
    ("required", "verdict", "script", "code", "says"), list(REQUIRED.values()), ids=list(REQUIRED)
)
def test_what_is_required_decides_the_exit_code(
    required: tuple[str, ...],
    verdict: str,
    script: dict[str, Any],
    code: int,
    says: str,
    made: Made,
    command: Run,
) -> None:
    ms, luck = AGAINST[verdict]
    flags = [part for one in required for part in ("--require", one)]
    with scripted(cast(made, ms, luck, **script)):
        shown = command("bench", *ORT, *flags)
        done = command("bench", *ORT, *flags, "--json")
    assert (shown.code, done.code) == (code, code)
    problems = done.document["problems"]
    assert bool(problems) == bool(says)
    assert says in " ".join(problems)
    assert all(problem in " ".join(shown.out.split()) for problem in problems)
    assert any(f"int8 / {RUNNER}: " in problem for problem in problems) == bool(problems)
    assert not any(one.startswith("fp32") and "valid" not in one for one in problems)


@pytest.mark.parametrize("required", ["decided", "faster"])
def test_a_failure_is_worse_than_what_was_required(required: str, made: Made, command: Run) -> None:
    scripts = cast(made, 0.5)
    scripts[f"{RUNNER}/int8"] = scripts[f"{RUNNER}/int8"].failing(load=WorkerCrashed("SIGSEGV"))
    with scripted(scripts):
        done = command("bench", *ORT, "--require", required, "--json")
    assert done.code == 5


def test_a_quick_run_decides_nothing(made: Made, command: Run) -> None:
    with scripted(cast(made, 0.5)):
        assert command("bench", *ORT, "--quick", "--require", "valid").code == 6
        assert command("bench", *ORT, "--quick", "--require", "faster").code == 6


@pytest.mark.parametrize(("required", "code"), [("faster", 1), ("decided", 0)])
def test_another_reference_may_be_asked_for(
    required: str, code: int, made: Made, command: Run
) -> None:
    flags = ("--reference", "int8", "--require", required)
    with scripted(cast(made, 0.5)):
        done = command("bench", *ORT, *flags, "--json")
        shown = command("bench", *ORT, *flags)
    fp32, int8 = done.document["cells"]
    assert (done.code, shown.code, done.document["reference"]) == (code, code, "int8")
    assert (int8["speedup"], int8["against_reference"]) == (1.0, None)
    assert fp32["speedup"] == pytest.approx(0.5, rel=0.01)
    assert fp32["against_reference"] == "slower"
    assert "int8" in shown.out.splitlines()[1]  # a heading: how many times int8


@pytest.mark.parametrize("flag", ["--require", "--reference"])
def test_a_word_that_means_nothing_is_refused(flag: str, made: Made, command: Run) -> None:
    """A gate that nothing can fail would be worse than none."""
    with scripted(cast(made, 2.0)):
        done = command("bench", *ORT, flag, "int9", "--require", "faster")
    assert (done.code, done.out) == (2, "")
    assert "int9" in done.error


def test_the_fastest_stands_on_top_and_the_last_sentence_says_what_to_ship(
    make: Make, command: Run
) -> None:
    made = make()
    scripts = made.scripts(RUNNER) | {
        f"{RUNNER}/fp32": made.script(ms=2.0),
        f"{RUNNER}/int8": made.script("int8", ms=3.0),
        f"{RUNNER}/int8-avx2": made.script("int8-avx2", ms=1.0),
    }
    with scripted(scripts):
        done = command("bench", *ORT)
    rows = re.findall(rf"^ *(\S+) +{RUNNER} +\d", done.out, re.MULTILINE)
    assert rows == ["int8-avx2", "fp32", "int8"]
    *_, last = done.out.strip().split("\n\n")
    said = " ".join(last.split())
    assert re.match(r"Ship int8-avx2.*: 2\.00 \[[\d.]+–[\d.]+\] times as fast as fp32\.", said)
    assert said.endswith("Its outputs are for `edgepipe parity` to judge.")


@pytest.mark.parametrize(
    ("ms", "luck", "says"),
    [
        (0.5, 0.0, "Ship int8/ort-cpu: 2.00 ["),
        (1.02, 0.0, "Ship fp32/ort-cpu"),
        (0.98, 0.0, "int8/ort-cpu is as fast within 5%, this one is more faithful"),
        (1.03, LUCK, "not told apart from"),
    ],
)
def test_the_sentence_knows_ties(
    ms: float, luck: float, says: str, made: Made, command: Run
) -> None:
    with scripted(cast(made, ms, luck)):
        done = command("bench", *ORT)
    said = " ".join(done.out.split())
    assert says in said, said
    assert ("more --generations" in said) == bool(luck)


def test_a_note_that_many_rows_share_is_said_once(make: Make, command: Run) -> None:
    made = make()
    with scripted(made.scripts(RUNNER, "openvino", **BUSY)):
        done = command("bench", "--runner", "openvino", *ORT)
        few = command("bench", "--runner", "openvino", *ORT, "--generations", 2)
    assert done.out.count("other processes took 30 %") == 1
    assert "rows)" not in done.out  # all of them
    assert few.out.count("too few generations") == 1


def test_a_note_of_some_rows_names_them_and_a_range_of_figures_is_one(
    make: Make, command: Run
) -> None:
    made = make()
    busy = {"int8": 30.0, "int8-avx2": 70.0}
    scripts = made.scripts(RUNNER)
    for variant, percent in busy.items():
        conditions = {"others_percent": percent}
        scripts[f"{RUNNER}/{variant}"] = made.script(variant, conditions=conditions)
    with scripted(scripts):
        done = command("bench", *ORT)
    said = " ".join(done.out.split())
    assert said.count("other processes took") == 1
    assert "took 30 to 70 % of the CPU time (int8/ort-cpu, int8-avx2/ort-cpu)" in said
