"""Named or not × what a runner is × the command: what was asked for is answered, with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgepipe.runners.base import (
    PlacementError,
    RunnerError,
    RunnerUnavailable,
    SessionError,
    WorkerCrashed,
    WorkerGarbage,
    WorkerTimeout,
)
from edgepipe.runners.workers.scripted import Script, scripted

from ..made import Made
from .outcomes import Done, case, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
GOOD = "ort-cpu"


@dataclass(frozen=True)
class Fault:
    """How ``runner`` is no use: what becomes of its script, and of the workspace around it.

    ``status`` is its rows', ``code`` the exit code where it is named, ``unasked`` where not.
    """

    runner: str
    status: str
    code: int = 5
    unasked: int = 0
    change: Callable[[Script], Script | None] = lambda script: script
    config: str = ""
    lost: Mapping[str, RunnerError] | None = None
    says: str = ""


def fails(**errors: RunnerError) -> Callable[[Script], Script]:
    return lambda script: script.failing(**errors)


FAULTS = {
    "no script": Fault("openvino", "unavailable", change=lambda _: None, says="it has no script"),
    "missing library": Fault(
        "openvino",
        "unavailable",
        change=lambda script: replace(script, reason="No module named 'openvino'; pip install"),
        says="pip install",
    ),
    "plug-in missing library": Fault(
        "abacus",
        "unavailable",
        change=lambda script: replace(script, reason="no beads"),
        says="no beads",
    ),
    "broken plug-in": Fault(
        "abacus",
        "unavailable",
        change=fails(describe=RunnerUnavailable("runner abacus fails to import: boom")),
        says="fails to import",
    ),
    "plug-in dies when asked": Fault(
        "abacus",
        "unavailable",
        change=fails(describe=WorkerCrashed("the worker ended: SIGSEGV")),
        says="SIGSEGV",
    ),
    "other formats": Fault(
        "abacus", "failed", change=lambda script: replace(script, formats=("beads",))
    ),
    "refuses the model": Fault(
        "openvino", "failed", 5, 5, fails(load=SessionError("no such operator")), says="operator"
    ),
    "crash": Fault(
        "openvino", "failed", 5, 5, fails(load=WorkerCrashed("SIGSEGV")), says="SIGSEGV"
    ),
    "time-out": Fault("openvino", "failed", 5, 5, fails(load=WorkerTimeout("3 s")), says="3 s"),
    "garbage": Fault("openvino", "failed", 5, 5, fails(load=WorkerGarbage("<html>")), says="html"),
    "crash in a run": Fault(
        "openvino", "failed", 5, 5, fails(run=WorkerCrashed("SIGILL")), says="SIGILL"
    ),
    "no such command": Fault(
        "openvino",
        "failed",
        5,
        5,
        config='[runners.openvino]\npython = "lost-python"\n',
        lost={"lost-python": RunnerUnavailable("can't start lost-python")},
        says="can't start lost-python",
    ),
    "stale environment": Fault("openvino", "unavailable", says="environment"),
    "elsewhere": Fault(
        "openvino", "failed", 1, 1, fails(load=PlacementError("3 nodes on CPU")), says="3 nodes"
    ),
}
COMMANDS = ("bench", "parity", "evaluate", "tune")
TITLES = [name.replace(" ", "_") for name in FAULTS]


def table() -> Iterator[Any]:
    for name, fault in FAULTS.items():
        for command in COMMANDS:
            for named in (True, False):
                title = f"{command}-{name}-{'named' if named else 'not named'}"
                yield case(command, fault, named, id=title.replace(" ", "_"))


def flags(command: str, photos: Path) -> list[object]:
    """What makes the command short."""
    more: dict[str, list[object]] = {"evaluate": ["--data", photos]}
    return ["--json", "--quiet", *more.get(command, [])]


def stale(runner: str, cache: Path) -> None:
    """An environment whose folder is gone."""
    marker = cache / "edgepipe" / "envs" / f"{runner}.json"
    marker.parent.mkdir(parents=True)
    names = ("runner", "directory", "base", "edgepipe", "code")
    marker.write_text(
        json.dumps({"schema_version": 1, **dict.fromkeys(names, "x"), "packages": {}})
    )


@contextmanager
def played(made: Made, fault: Fault, root: Path, good: str = GOOD) -> Iterator[None]:
    """A good runner beside the one at fault."""
    scripts = made.scripts(good)
    for key, script in made.scripts(fault.runner).items():
        if found := fault.change(script):
            scripts[key] = found
    if fault.says == "environment":
        stale(fault.runner, root / "cache")
    (root / "edgepipe.toml").write_text(fault.config)
    with scripted(scripts, lost=fault.lost):
        yield


@pytest.mark.parametrize(("name", "fault", "named"), list(table()))
def test_a_runner_at_fault_has_rows_that_say_so_and_the_others_go_on(
    name: str, fault: Fault, named: bool, make: Make, command: Run, tmp_path: Path, photos: Path
) -> None:
    made = make(variants=("fp32", "int8"))
    asked = ("--runner", GOOD, "--runner", fault.runner) if named else ()
    with played(made, fault, tmp_path):
        done = command(name, *asked, *flags(name, photos))
    cells = done.document["cells"]
    good = [cell for cell in cells if cell["runner"] == GOOD]
    assert [(cell["variant"], cell["status"]) for cell in good] == [("fp32", "ok"), ("int8", "ok")]
    bad = [cell for cell in cells if cell["runner"] == fault.runner]
    if named or fault is not FAULTS["other formats"]:
        assert bad, "it was dropped without a word"
    for cell in bad:
        assert cell["status"] == fault.status
        one_line(cell["reason"])
        assert fault.says in cell["reason"]
    misplaced = fault is FAULTS["elsewhere"] and name in ("evaluate", "tune")
    assert done.code == (5 if misplaced else fault.code if named else fault.unasked), done.said
    valid_files(tmp_path)


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        case(
            replace(fault, runner=GOOD, config=fault.config.replace("openvino", GOOD)),
            gate,
            id=f"{name.replace(' ', '_')}-{'gate' if gate else 'no gate'}",
        )
        for name, fault in FAULTS.items()
        if fault.runner == "openvino"
        for gate in (True, False)
    ],
)
def test_another_fp32_stands_in_for_the_reference_runners(
    fault: Fault, gate: bool, make: Make, command: Run, tmp_path: Path, photos: Path
) -> None:
    made = make(variants=("fp32", "int8"))
    limit = ("--max-drop", "100") if gate else ()
    with played(made, fault, tmp_path, good="openvino"):
        done = command("evaluate", "--runner", "openvino", *limit, *flags("evaluate", photos))
    assert done.code == 0, done.said
    document = done.document
    assert document["reference"]["runner"] == "openvino"
    assert any("since" in note and fault.says in note for note in document["notes"])
    rows = [(cell["variant"], cell["runner"], cell["verdict"]) for cell in document["cells"]]
    assert rows == [("fp32", "openvino", None), ("int8", "openvino", "pass" if gate else None)]


PRECISE = {
    # (runner, precisions it can do), precisions asked for -> exit code
    "both": (("f32", "tf32"), ("f32", "tf32"), 0, ""),
    "one of two": (("f32",), ("f32", "tf32"), 5, ""),
    "none": (("f32",), ("tf32",), 5, ""),
}


@pytest.mark.parametrize("name", COMMANDS[:3])
@pytest.mark.parametrize(("can", "asked", "code", "pending"), list(PRECISE.values()), ids=PRECISE)
def test_a_precision_that_no_runner_has_is_a_row_with_the_reason(
    name: str,
    can: tuple[str, ...],
    asked: tuple[str, ...],
    code: int,
    pending: str,
    make: Make,
    command: Run,
    tmp_path: Path,
    photos: Path,
) -> None:
    made = make(variants=("fp32",))
    chosen = [part for one in asked for part in ("--precision", one)]
    with scripted(made.scripts(GOOD, precisions=can)):
        done = command(name, "--runner", GOOD, *chosen, *flags(name, photos))
    cells = [cell for cell in done.document["cells"] if cell["runner"] == GOOD]
    assert done.code == code, done.said
    for precision in asked:
        found = [cell for cell in cells if cell["precision"] == precision]
        assert found, f"nothing of {precision}"
        for cell in found:
            assert cell["status"] == ("ok" if precision in can else "failed")
            if precision not in can:
                assert f"not {precision}" in cell["reason"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        case(name, named, id=f"{name}-{'named' if named else 'not named'}")
        for name in COMMANDS[:3]
        for named in (True, False)
    ],
)
def test_a_precision_is_not_asked_of_runners_that_never_have_it(
    name: str, named: bool, make: Make, command: Run, tmp_path: Path, photos: Path
) -> None:
    made = make(variants=("fp32",))
    scripts = made.scripts(GOOD) | made.scripts(
        "ort-cuda", precisions=("f32", "tf32"), devices=("GPU",)
    )
    asked = ("--runner", GOOD, "--runner", "ort-cuda") if named else ()
    with scripted(scripts):
        done = command(
            *(name, *asked, "--precision", "f32", "--precision", "tf32"), *flags(name, photos)
        )
    ok = [(c["runner"], c["precision"]) for c in done.document["cells"] if c["status"] == "ok"]
    assert ok == [(GOOD, "f32"), ("ort-cuda", "f32"), ("ort-cuda", "tf32")]
    assert done.code == 0, done.said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("runners", "variants"),
    [
        case(("ort-cpu", "torch"), ("int8",), id="torch takes no int8"),
        case(("torch",), ("fp32", "int8"), id="torch takes one of two"),
        case(("ort-cpu", "torch"), ("fp32",), id="both take fp32"),
    ],
)
def test_every_named_pair_has_a_row(
    name: str,
    runners: tuple[str, ...],
    variants: tuple[str, ...],
    make: Make,
    command: Run,
    tmp_path: Path,
    photos: Path,
) -> None:
    made = make(variants=("fp32", "int8"), program=True)
    scripts = made.scripts("ort-cpu") | made.scripts("torch", formats=("pt2",))
    asked = [part for one in runners for part in ("--runner", one)]
    asked += [part for one in variants for part in ("--variant", one)]
    with scripted(scripts):
        done = command(name, *asked, *flags(name, photos))
    cells = {(cell["runner"], cell["variant"]): cell for cell in done.document["cells"]}
    for runner in runners:
        for variant in variants:
            row = cells[runner, variant]
            possible = runner == "ort-cpu" or variant == "fp32"
            assert (row["status"] == "ok") == possible
            if not possible:
                one_line(row["reason"])
    taken = all(runner == "ort-cpu" for runner in runners) or "int8" not in variants
    assert done.code == (0 if taken else 5), done.said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("flag", "value"),
    [("--runner", "onnx"), ("--variant", "int9"), ("--target", "moon"), ("--model", "../up")],
)
def test_a_name_that_is_none_is_a_usage_error_in_one_line(
    name: str, flag: str, value: str, make: Make, command: Run
) -> None:
    made = make()
    with scripted(made.scripts(GOOD)):
        done = command(name, flag, value)
    assert (done.code, done.out) == (2, "")
    one_line(done.error)


@pytest.mark.parametrize(
    "fault", list(FAULTS.values()), ids=[name.replace(" ", "_") for name in FAULTS]
)
def test_predict_answers_or_says_in_one_line_why_not(
    fault: Fault, make: Make, command: Run, tmp_path: Path, photos: Path
) -> None:
    made = make(variants=("fp32",))
    with played(made, fault, tmp_path):
        good = command("predict", photos, "--json", "--quiet")
        bad = command("predict", photos, "--runner", fault.runner, "--json", "--quiet")
    assert good.code == 0
    assert len(good.document["predictions"]) == len(list(photos.rglob("*.png")))
    if fault is FAULTS["other formats"]:
        assert bad.code in (2, 5)
    else:
        assert bad.code == 5
        assert fault.says in bad.error
    assert bad.out == ""
