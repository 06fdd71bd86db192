"""package × what parity found × what is allowed, and verify × what the box has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepipe.pipeline import bench, package, parity, tune
from edgepipe.runners.base import RunnerError, SessionError, WorkerCrashed, WorkerTimeout
from edgepipe.runners.workers.scripted import HOST, Script, scripted

from ..made import Made, changed
from .outcomes import Done, case, one_line, valid_files

Make = Callable[..., Made]
Run = Callable[..., Done]
RUNNER = "ort-cpu"
NO_VNNI = {**HOST, "cpu_flags": ["avx2"], "cpu": "A scripted CPU without VNNI"}


def negated(made: Made) -> dict[str, Script]:
    """A runner whose int8 answers are wrong."""
    answer = changed(made.answer("int8"), lambda found: {n: -array for n, array in found.items()})
    return made.scripts(RUNNER) | {f"{RUNNER}/int8": made.script("int8", answer=answer)}


def judged(made: Made) -> None:
    with scripted(made.scripts(RUNNER)):
        parity(runners=(RUNNER,))


def failed(made: Made) -> None:
    with scripted(negated(made)):
        parity(runners=(RUNNER,))


def crashed(made: Made) -> None:
    error = WorkerCrashed("SIGSEGV")
    with scripted({**made.scripts(RUNNER), f"{RUNNER}/int8": made.script().failing(load=error)}):
        parity(runners=(RUNNER,))


def unavailable(made: Made) -> None:
    with scripted({}):
        parity(runners=(RUNNER,))


def in_part(made: Made) -> None:
    with scripted(made.scripts(RUNNER)):
        parity(runners=(RUNNER,), variants=("fp32",))


def too_few(made: Made) -> None:
    with scripted(made.scripts(RUNNER)):
        parity(runners=(RUNNER,), samples=5)


def stale(made: Made) -> None:
    judged(made)
    made.edition = "new"
    made.write()


def timed(made: Made) -> None:
    judged(made)
    with scripted(made.scripts(RUNNER)):
        bench(runners=(RUNNER,))


STATES: Mapping[str, tuple[Callable[[Made], None], bool]] = {
    # what was done to the workspace -> whether parity has passed
    "nothing": (lambda _made: None, False),
    "passed": (judged, True),
    "passed and timed": (timed, True),
    "failed": (failed, False),
    "crashed": (crashed, False),
    "unavailable": (unavailable, False),
    "of one variant only": (in_part, False),
    "of too few samples": (too_few, False),
    "of other files": (stale, False),
}


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "random"])
@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed"])
@pytest.mark.parametrize(
    ("prepare", "passed"), list(STATES.values()), ids=[name.replace(" ", "_") for name in STATES]
)
def test_only_what_has_passed_is_packaged_unless_it_is_allowed(
    prepare: Callable[[Made], None],
    passed: bool,
    allowed: bool,
    trained: bool,
    make: Make,
    command: Run,
    tmp_path: Path,
) -> None:
    made = make(variants=("fp32", "int8"), model={"trained": trained})
    prepare(made)
    flags = ("--allow-failed-parity", "--allow-untrained") if allowed else ()
    done = command("package", "--json", "--quiet", *flags)
    good = allowed or (passed and trained)
    assert done.code == (0 if good else 1), done.err
    bundles = list((tmp_path / "bundles").glob("*")) if (tmp_path / "bundles").is_dir() else []
    assert len(bundles) == good
    if not good:
        one_line(done.error)
        return
    waived = set(done.document["bundle"]["waived"])
    conditions = {"failed-parity": passed, "untrained": trained}
    assert waived == {name for name, met in conditions.items() if not met}
    with scripted(made.scripts(RUNNER)):
        checked = command("verify", bundles[0], "--json", "--quiet")
    assert checked.code == 0, checked.said
    verdicts = {check["name"]: check["verdict"] for check in checked.document["checks"]}
    assert verdicts["evidence"] == ("waived" if waived else "pass")


@dataclass(frozen=True)
class Box:
    """What a box has: its scripts, made of good ones, and its machine."""

    code: int
    says: str = ""
    change: Callable[[dict[str, Script], Made], dict[str, Script]] = lambda scripts, _made: scripts
    host: Mapping[str, Any] = field(default_factory=lambda: HOST)
    flags: tuple[str, ...] = ()
    pending: str = ""


def each(**fields: Any) -> Callable[[dict[str, Script], Made], dict[str, Script]]:
    return lambda scripts, _made: {key: replace(one, **fields) for key, one in scripts.items()}


def dies(**errors: RunnerError) -> Callable[[dict[str, Script], Made], dict[str, Script]]:
    return lambda scripts, _made: {key: one.failing(**errors) for key, one in scripts.items()}


def answers(change: Callable[[np.ndarray], np.ndarray]) -> Any:
    def altered(scripts: dict[str, Script], made: Made) -> dict[str, Script]:
        return {
            key: replace(
                one,
                answer=changed(one.answer, lambda found: {n: change(x) for n, x in found.items()}),
            )
            for key, one in scripts.items()
        }

    return altered


BOXES = {
    "all well": Box(0),
    "by name": Box(0, flags=("--runner", RUNNER, "--variant", "fp32")),
    "five samples": Box(6, "can't carry", flags=("--samples", "5")),
    "no VNNI": Box(0, host=NO_VNNI),
    "no VNNI, int8 by name": Box(
        1, "not one for this CPU", host=NO_VNNI, flags=("--variant", "int8")
    ),
    "no VNNI, int8 allowed": Box(
        0, "not one for this CPU", host=NO_VNNI, flags=("--variant", "int8", "--allow-unfit")
    ),
    "no runner": Box(5, "no runner for this bundle", lambda _scripts, _made: {}),
    "a missing library": Box(5, "pip install", each(reason="no onnxruntime; pip install it")),
    "another runner only": Box(
        0,
        change=lambda scripts, _made: {
            key.replace(RUNNER, "openvino"): one for key, one in scripts.items()
        },
    ),
    "an unknown variant": Box(2, "no variant", flags=("--variant", "fp16")),
    "an unknown runner": Box(2, "no 'onnx'", flags=("--runner", "onnx")),
    "a runner of other formats": Box(5, "takes pt2", flags=("--runner", "torch")),
    "a crash": Box(5, "SIGSEGV", dies(load=WorkerCrashed("SIGSEGV"))),
    "a crash in a run": Box(5, "SIGILL", dies(run=WorkerCrashed("SIGILL"))),
    "a time-out": Box(5, "60 s", dies(run=WorkerTimeout("within 60 s"))),
    "a refusal": Box(5, "no operator", dies(load=SessionError("no operator"))),
    "a crash while timed": Box(5, "SIGSEGV", dies(measure=WorkerCrashed("SIGSEGV"))),
    "wrong answers": Box(1, "SQNR", answers(np.negative)),
    "NaN": Box(1, "NaN or infinite", answers(lambda array: array * np.nan)),
    "a class less": Box(1, "the reference gave", answers(lambda array: array[:, 1:])),
    "float64": Box(1, "the reference gave", answers(lambda array: array.astype(np.float64))),
    "other answers while timed": Box(1, "while timed", each(deviation=0.5)),
    "elsewhere": Box(
        5, "not all nodes", each(placement={"nodes": {"CPUExecutionProvider": 1, "X": 1}})
    ),
    "another precision": Box(1, "bf16", each(placement={"precision": "bf16"})),
}


@pytest.mark.parametrize(
    "box", [case(box, id=name, pending=box.pending) for name, box in BOXES.items()]
)
def test_a_bundle_holds_on_the_box_or_it_is_said_why_not(
    box: Box, make: Make, command: Run, tmp_path: Path
) -> None:
    made = make()
    timed(made)
    path = package().path
    scripts = box.change(made.scripts(RUNNER), made)
    with scripted(scripts, host=box.host):
        done = command("verify", path, *box.flags, "--json", "--quiet")
        shown = command("verify", path, *box.flags, "--quiet")
    assert done.code == shown.code == box.code, done.said
    if done.out:
        document = done.document
        said = " ".join(check["text"] for check in document["checks"])
        assert document["verdict"] == {0: "pass", 1: "fail", 6: "inconclusive"}[box.code]
        assert box.says in said
        assert document["samples"] == (5 if "5" in box.flags else 32)
    else:
        one_line(done.error)
        assert box.says in done.error
    valid_files(tmp_path)


@pytest.mark.parametrize("recommended", [True, False], ids=["tuned", "not tuned"])
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_a_box_runs_what_was_recommended_with_no_more_threads_than_it_has(
    cores: int, recommended: bool, make: Make, command: Run
) -> None:
    made = make(variants=("fp32",))
    fast: dict[str, Any] = {"tunables": {"turbo": (True,)}}
    fast["varies"] = lambda one: {"ms": (0.5 if one.options.get("turbo") else 1.0) / one.threads}
    with scripted(made.scripts(RUNNER, **fast)):
        if recommended:
            assert tune(runners=(RUNNER,)).cells[0].verdict == "recommended"
        parity(runners=(RUNNER,))
    path = package().path
    with scripted(made.scripts(RUNNER, **fast), host={**HOST, "physical_cores": cores}):
        done = command("verify", path, "--json", "--quiet")
    document = done.document
    assert (done.code, document["recommended"]) == (0, recommended)
    threads = min(cores, 4) if recommended else cores
    assert document["threads"] == threads
    assert document["p50_ms"] == pytest.approx((0.5 if recommended else 1.0) / threads, rel=0.02)


EVIDENCE: Mapping[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "every verdict fail": (
        lambda document: [cell.update(verdict="fail") for cell in document["cells"]],
        "",
    ),
    "no cells": (lambda document: document.update(cells=[]), ""),
    "nothing else": (
        lambda document: [document.pop(k) for k in list(document) if k != "cells"],
        "",
    ),
}


@pytest.mark.parametrize(
    "alter",
    [case(alter, id=name, pending=pending) for name, (alter, pending) in EVIDENCE.items()],
)
def test_evidence_is_read_and_not_only_there(
    alter: Callable[[dict[str, Any]], Any], make: Make, command: Run, tmp_path: Path
) -> None:
    """What a bundle carries whose maker edited parity.json before its hash was taken."""
    made = make(variants=("fp32",))
    judged(made)
    path = made.folder / "parity.json"
    whole = path.read_text()
    document = json.loads(whole)
    alter(document)

    read, honest = Path.read_bytes, [whole.encode()]

    def edited(self: Path) -> bytes:
        """What is judged is what parity wrote, what is packaged after that is another."""
        if self != path:
            return read(self)
        return honest.pop() if honest else json.dumps(document).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", edited)
        bundle = package(workspace=made.root).path
    with scripted(made.scripts(RUNNER)):
        done = command("verify", bundle, "--json", "--quiet")
    assert done.code in (1, 4)
