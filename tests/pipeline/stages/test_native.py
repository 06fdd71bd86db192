"""One worker for all that an export has native libraries do, and what a crash of it costs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepipe.pipeline.errors import StageError
from edgepipe.pipeline.stages.native import Native
from edgepipe.runners.base import WorkerCrashed

WORKER = """
import os, signal
from pathlib import Path
from edgepipe.runners.workers import worker

def who(fields, _feeds):
    Path(fields["output"]).write_text(str(os.getpid()))
    return {}, {}

def refuse(_fields, _feeds):
    raise ValueError("unknown operator")

def crash(_fields, _feeds):
    os.kill(os.getpid(), signal.SIGSEGV)

operations = (worker.hello, who, refuse, crash)
worker.main({operation.__name__: operation for operation in operations})
"""


@pytest.fixture
def native() -> Iterator[Native]:
    with Native((sys.executable, "-c", WORKER)) as made:
        yield made


def who(native: Native, folder: Path) -> int:
    native.ask("who", output=folder / "pid")
    return int((folder / "pid").read_text())


def test_one_worker_serves_one_stage_after_the_other(native: Native, tmp_path: Path) -> None:
    first = who(native, tmp_path)
    with pytest.raises(StageError, match="refuse failed: ValueError: unknown operator"):
        native.ask("refuse")
    assert who(native, tmp_path) == first


def test_after_a_crash_a_fresh_worker_serves_the_next_stage(native: Native, tmp_path: Path) -> None:
    first = who(native, tmp_path)
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        native.ask("crash")
    assert who(native, tmp_path) != first
