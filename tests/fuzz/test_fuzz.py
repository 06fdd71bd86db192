"""Spoiled files of every kind: each ends in an exit code of the table, and in nothing else.

``pytest tests/fuzz --fuzz-case 17`` runs the case that failed as case 17 alone.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from . import cases
from .running import Outcome, Pool
from .world import World

SHOWN = 25
# Mutations of which some reach every part.
ENOUGH = 100
SOURCE = Path(__file__).parents[2]


def test_spoiled_files(
    world: World, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    option: Any = request.config.option
    alone: int | None = option.fuzz_case
    numbers = range(option.mutations) if alone is None else [alone]
    _import_everything()
    pool = Pool(os.cpu_count() or 1)
    began, done = time.monotonic(), []
    for number in numbers:
        if time.monotonic() - began > option.fuzz_seconds:
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        case = cases.make(number, option.fuzz_seed, world, folder)
        for outcome in pool.start(case, folder):
            done.append(_kept(outcome, tmp_path))
    done += [_kept(outcome, tmp_path) for outcome in pool.finish()]
    with capsys.disabled():
        print("\n" + _summary(done, len(numbers), time.monotonic() - began, tmp_path))
        if alone is not None:
            print(done[0].case, done[0].said, sep="\n")
    faults = sum(outcome.fault is not None for outcome in done)
    assert not faults, f"{faults} faults, listed above"
    # Commands that don't even start find nothing: files were read, refused and judged.
    missing = {0, 3, 4} - {outcome.code for outcome in done}
    assert len(done) < ENOUGH or not missing, f"no command ended with {missing}"


def _import_everything() -> None:
    """Once, and not in every fork."""
    import cyclonedx.output.json  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401
    import typer.main

    from edgepipe.exporters.weights import sources  # noqa: F401
    from edgepipe.pipeline import cli
    from edgepipe.pipeline.report.plots import plots  # noqa: F401
    from edgepipe.pipeline.shipping import verify  # noqa: F401
    from edgepipe.pipeline.shipping.packing import package, requirements
    from edgepipe.runners.machine import own_process

    own_process.claim()
    # What every command works out from the code and the environment alone.
    made = typer.main.get_command
    command = made(cli.app)
    typer.main.get_command = lambda app: command if app is cli.app else made(app)
    requirements.pinned = cache(requirements.pinned)
    for extra in package.RUNTIMES:
        requirements.pinned(extra)
    gc.collect()
    gc.freeze()


def _kept(outcome: Outcome, folder: Path) -> Outcome:
    """What was wrong stays to be looked at; the rest goes."""
    if not outcome.fault:
        shutil.rmtree(folder / str(outcome.case.number), ignore_errors=True)
    return outcome


def _summary(done: list[Outcome], asked: int, seconds: float, folder: Path) -> str:
    codes = Counter(outcome.code for outcome in done)
    counted = f"{len(done)} of {asked} mutations in {seconds:.0f} s"
    lines = [f"{counted}; exit codes {dict(sorted(codes.items()))}"]
    found = [outcome for outcome in done if outcome.fault]
    if found:
        lines.append(f"{len(found)} faults, kept in {folder}:")
    kinds: dict[tuple[str | None, str], list[Outcome]] = {}
    for outcome in found:
        kinds.setdefault((outcome.fault, _where(outcome.said)), []).append(outcome)
    for (fault, where), same in sorted(kinds.items(), key=lambda item: -len(item[1]))[:SHOWN]:
        lines.append(f"{len(same)} x {fault}: {where}\n    {same[0].case}")
    return "\n".join(lines)


def _where(said: str) -> str:
    """The last frame of ours in a traceback, and what was raised there."""
    lines = [line for line in said.splitlines() if line.strip()]
    frames = [line for line in lines if line.startswith('  File "') and str(SOURCE) in line]
    raised = [line for line in lines if line[:1] not in " ~^" and not line.startswith("edgepipe:")]
    return f"{frames[-1].strip() if frames else ''} {raised[-1][:200] if raised else ''}"
