"""Workers that are killed, stopped or flood (FAULTS 9): one cell fails, the run goes on."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from .conftest import Command, Small

Run = Callable[..., CompletedProcess[str]]
Start = Callable[..., Command]
WORKER = "edgepipe.runners.workers.worker"
MODEL = "mobilenet_v2"
# Stands in for a library, or a shell's start-up file, that prints before the worker speaks.
FLOOD = "head -c 104857600 /dev/zero | tr '\\0' 'x' >&{descriptor}; exec \"$0\" \"$@\""


def timed_worker(command: Command) -> psutil.Process | None:
    """The worker whose turn it is: while one is timed, the others are stopped."""
    workers = []
    for child in psutil.Process(command.process.pid).children():
        try:
            workers.append((child.status() == psutil.STATUS_STOPPED, child))
        except psutil.Error:  # it ended meanwhile
            return None
    running = [worker for stopped, worker in workers if not stopped]
    return running[0] if len(workers) == 2 and len(running) == 1 else None


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, r"the worker ended during '\w+': SIGKILL"),
        # Found out by the time-out, whose two minutes are what this test takes.
        pytest.param(
            signal.SIGSTOP,
            r"the worker did not answer '\w+' within \d+ s and was killed",
            marks=pytest.mark.long,
        ),
    ],
    ids=["SIGKILL", "SIGSTOP"],
)
def test_a_worker_hit_while_it_runs_costs_its_cell(
    small: Small, small_workspace: Path, start: Start, number: signal.Signals, says: str
) -> None:
    cells = ("--runner", "ort-cpu", "--variant", "fp32", "--variant", "int8")
    # Random arrivals: one long turn for each of the two, and nobody else has any.
    arrivals = ("--scenario", "server", "--rate", "5", "--seconds", "5", "--generations", "1")
    command = start("bench", *cells, *arrivals, "--workspace", small_workspace)
    command.until(lambda: timed_worker(command))
    time.sleep(1)  # into the turn; what was being warmed up has been stopped by now
    worker = timed_worker(command)
    assert worker
    worker.send_signal(number)
    assert command.process.wait(300) == 5, command.said
    assert not command.relatives()
    document = json.loads((small_workspace / MODEL / "bench.json").read_text())
    (failed,) = [cell for cell in document["cells"] if cell["status"] == "failed"]
    (well,) = [cell for cell in document["cells"] if cell["status"] == "ok"]
    assert re.search(says, failed["reason"])
    assert failed["latency_ms"] is None
    assert well["latency_ms"]["p50"] > 0
    assert "Traceback" not in command.said


@pytest.mark.parametrize(("stream", "descriptor"), [("stdout", 1), ("stderr", 2)])
def test_a_worker_that_prints_100_mb(
    small_workspace: Path, edgepipe: Run, tmp_path: Path, stream: str, descriptor: int
) -> None:
    """Where the protocol is, it costs the cell; on stderr, nothing."""
    script = FLOOD.format(descriptor=descriptor)
    command = json.dumps(["sh", "-c", script, "{python}"])
    (tmp_path / "edgepipe.toml").write_text(f"[targets.flood]\ncommand = {command}\n")
    flags = ("--runner", "ort-cpu", "--variant", "int8", "--quick", "--workspace", small_workspace)
    done = edgepipe("bench", *flags, "--target", "flood", "--target", "local")
    assert done.returncode == (5 if stream == "stdout" else 0), done.stderr
    rows = re.findall(r"^ *int8 +ort-cpu .*$", done.stdout, re.MULTILINE)
    assert len(rows) == (1 if stream == "stdout" else 2), done.stdout
    assert ("garbage" in done.stdout) == (stream == "stdout")
    assert len(done.stdout + done.stderr) < 10_000
