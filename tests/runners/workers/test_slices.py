"""Workers side by side: each uses the CPU in its own slices only, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgepipe.runners.base import SessionError, Settings, WorkerCrashed, WorkerTimeout
from edgepipe.runners.targets import Target
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.workers.launch import Timeouts, Worker

from .waiting import soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FEEDS = {"input": np.array([[-1.0, 2.0]], np.float32)}
PLAN = Plan(seconds=0.03, min_samples=4, max_seconds=5.0, window_seconds=0.01, warm_up_seconds=0.1)
SPUN_SECONDS = 0.2

# A worker whose session has a thread that never rests, a child, and an end that the input asks for.
WORKER = """
import os, subprocess, threading, time
from edgepipe.runners import registry
from edgepipe.runners.base import Placement, TensorSpec
from edgepipe.runners.workers import worker

def spin():
    while True:
        sum(range(1000))

class Session:
    inputs = (TensorSpec("input", "float32", (1, 2)),)
    outputs = (TensorSpec("out", "float32", (1, 2)),)
    placement = Placement("CPU", "", "f32", "", 1, None, "", {{}})

    def __init__(self):
        threading.Thread(target=spin, daemon=True).start()
        subprocess.Popen(["sleep", "1000"])
        self.left = {runs}

    def run(self, feeds):
        self.left -= 1
        if self.left == 0:
            {end}
        time.sleep(0.0005)
        return {{"out": feeds["input"]}}

class Spinner:
    name, formats, precisions, tunables = "spinner", ("onnx",), ("f32",), {{}}

    def unavailable(self):
        return None

    def version(self):
        return "1"

    def load(self, model, settings):
        return Session()

registry.get = lambda name: Spinner()
worker.main()
"""


@pytest.fixture
def spinner(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The command of a worker; after so many ``runs`` it does what ``end`` says."""

    def command(runs: int = -1, end: str = "pass") -> tuple[str, ...]:
        script = tmp_path / "spinner.py"
        script.write_text(WORKER.format(runs=runs, end=end))
        return sys.executable, str(script)

    return command


def used(worker: psutil.Process) -> int:
    """What a process has used of the CPU, with all of its threads, in clock ticks."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def spends(worker: psutil.Process) -> int:
    """What it uses while nobody asks it anything."""
    before = used(worker)
    time.sleep(SPUN_SECONDS)
    return used(worker) - before


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; a zombie that init has yet to collect does not."""

    def alive(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return soon(lambda: not any(map(alive, processes)))


def family(worker: Worker) -> list[psutil.Process]:
    """Its process, the watchdog, and what the session started."""
    process = psutil.Process(worker.hello["pid"])
    assert soon(lambda: len(process.children()) == 2)
    return [process, *process.children()]


def test_between_its_slices_a_worker_uses_no_cpu(spinner: Callable[..., tuple[str, ...]]) -> None:
    with Worker(spinner()) as worker:
        process = psutil.Process(worker.hello["pid"])
        worker.load("spinner", {"any.onnx": b""}, Settings(1))
        assert spends(process) > 0  # or the test would see nothing
        worker.warm_up(FEEDS, PLAN)
        for _ in range(3):
            assert soon(lambda: process.status() == psutil.STATUS_STOPPED)
            assert spends(process) == 0
            before = used(process)
            worker.slice()
            assert used(process) > before
        measurement, _ = worker.finish()
    assert len(measurement.slices) == 3
    assert all(len(part) >= PLAN.min_samples for part in measurement.by_slice())
    # What it was stopped for is in no sample.
    assert measurement.samples.max() < SPUN_SECONDS * 1e9


def test_a_worker_behind_another_process_is_never_stopped_and_has_its_slices(
    spinner: Callable[..., tuple[str, ...]],
) -> None:
    """Behind a shell, as on another machine, the process that was started is not the worker."""
    prefix = ("sh", "-c", '"$@"; exit $?', "sh", "{python}")
    behind = (*Target(command=prefix).argv()[:4], *spinner())
    with Worker(behind) as worker:
        process = psutil.Process(worker.hello["pid"])
        worker.load("spinner", {"any.onnx": b""}, Settings(1))
        worker.warm_up(FEEDS, PLAN)
        for _ in range(2):
            worker.slice()
            assert spends(process) > 0
        measurement, _ = worker.finish()
    assert len(measurement.slices) == 2


@pytest.mark.parametrize("slices", [0, 2])
def test_a_stopped_worker_ends_with_all_that_it_started(
    spinner: Callable[..., tuple[str, ...]],
    slices: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with Worker(spinner()) as worker:
        worker.load("spinner", {"any.onnx": b""}, Settings(1))
        processes = family(worker)
        worker.warm_up(FEEDS, PLAN)
        for _ in range(slices):
            worker.slice()
        assert soon(lambda: processes[0].status() == psutil.STATUS_STOPPED)
        began = time.monotonic()
    assert time.monotonic() - began < 5  # no time-out had to end it
    assert gone(processes)
    assert soon(lambda: not list(temporary.iterdir()))


@pytest.mark.parametrize(
    ("end", "error", "says"),
    [
        ("os._exit(3)", WorkerCrashed, "'slice': exit status 3"),
        ("os.kill(os.getpid(), 11)", WorkerCrashed, "'slice': SIGSEGV"),
        ("os.kill(os.getpid(), 19)", WorkerTimeout, "'slice' within"),
        ("raise ValueError('no more')", SessionError, "no more"),
    ],
)
def test_a_slice_that_ends_badly_says_how(
    spinner: Callable[..., tuple[str, ...]], end: str, error: type[Exception], says: str
) -> None:
    """Also where it stops itself: who goes on with it is not asked twice."""
    plan = Plan(0.03, 4, max_seconds=0.2, window_seconds=0.01, warm_up_seconds=0.01)
    with Worker(spinner(runs=60, end=end), Timeouts(run=1.0)) as worker:
        worker.load("spinner", {"any.onnx": b""}, Settings(1))
        processes = family(worker)
        worker.warm_up(FEEDS, plan)
        with pytest.raises(error, match=says):
            deque((worker.slice() for _ in range(60)), maxlen=0)
    assert gone(processes)


def test_a_worker_killed_while_it_is_stopped_is_a_crash_of_its_next_slice(
    spinner: Callable[..., tuple[str, ...]],
) -> None:
    with Worker(spinner()) as worker:
        worker.load("spinner", {"any.onnx": b""}, Settings(1))
        worker.warm_up(FEEDS, PLAN)
        os.kill(worker.hello["pid"], signal.SIGKILL)
        with pytest.raises(WorkerCrashed, match="'slice': SIGKILL"):
            worker.slice()


PARENT = """
import sys
from contextlib import ExitStack
import numpy as np
from edgepipe.runners.base import Settings
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.workers.launch import Worker

feeds = {"input": np.zeros((1, 2), np.float32)}
with ExitStack() as stack:
    for number in range(3):
        worker = stack.enter_context(Worker(sys.argv[1:]))
        worker.load("spinner", {"any.onnx": b""}, Settings(1))
        worker.warm_up(feeds, Plan(0.03, 4, 5.0, 0.01, 0.1))
        for _ in range(number):
            worker.slice()
        print(worker.hello["pid"], flush=True)
    sys.stdin.read()
"""


def test_stopped_workers_end_after_their_parent_was_killed(
    spinner: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """And what they started, and their temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", PARENT, *spinner()]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout
        workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(3)]
        processes = [one for worker in workers for one in (worker, *worker.children())]
        stopped = [soon(lambda one=one: one.status() == psutil.STATUS_STOPPED) for one in workers]
        parent.kill()
    try:
        assert stopped == [True] * 3
        assert len(processes) == 9
        assert gone(processes)
        # The parent's own folders are left; the workers' are in them, and empty.
        assert not [path for path in temporary.rglob("*") if path.is_file()]
    finally:
        for process in processes:
            if process.is_running():
                process.kill()
