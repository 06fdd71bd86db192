"""The parent's side: whatever a worker does, an error that says so, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from edgepipe.pipeline.cells.session import Cell, open_cell
from edgepipe.runners.base import (
    RunnerError,
    RunnerUnavailable,
    SessionError,
    Settings,
    WorkerCrashed,
    WorkerError,
    WorkerGarbage,
    WorkerTimeout,
)
from edgepipe.runners.targets import LOCAL, Target
from edgepipe.runners.timing.plan import Plan
from edgepipe.runners.workers import launch, protocol
from edgepipe.runners.workers.launch import STDERR_KEPT, Timeouts, Worker

from ... import bundles
from .waiting import soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")

PATIENT = Timeouts(start=30.0, load=30.0, run=30.0)
IMPATIENT = Timeouts(start=1.0, load=1.0, run=1.0)
SHORT = Timeouts(start=30.0, load=1.0, run=1.0)
FLOOD = 100 << 20
LARGER_THAN_A_PIPE = bytes(8 << 20)
PLAN = Plan(seconds=0.05, min_samples=4, max_seconds=5.0, window_seconds=0.01, warm_up_seconds=0.1)
FEEDS = {"input": np.array([[-1.0, 2.0]], np.float32)}

# What every far end starts with: its process on record, and the two halves of the protocol.
PREAMBLE = """
import json, os, resource, signal, subprocess, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def note(pid):
    with open({record!r}, "a") as file:
        file.write(f"{{pid}}\\n")

note(os.getpid())
HELLO = {hello!r}
FLOOD = {flood!r}

def hear():
    message = json.loads(sys.stdin.buffer.readline())
    for blob in message["blobs"]:
        sys.stdin.buffer.read(blob["bytes"])
    return message

def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()

def say(fields, blobs=()):
    write(json.dumps(dict(fields, blobs=list(blobs))).encode() + b"\\n")

def linger(**options):
    "Start a child that outlives this process unless somebody ends it."
    note(subprocess.Popen(["sleep", "1000"], **options).pid)

def flood(stream, chunk):
    for _ in range(FLOOD // len(chunk)):
        stream.write(chunk)
    stream.flush()
"""
HELLO = {
    "protocol": protocol.VERSION,
    "edgepipe": version("edgepipe"),
    "pid": 0,
    "host": {"physical_cores": 1},
}
FOREVER = "time.sleep(1000)"
GREET = "hear(); say(HELLO)"


@dataclass
class FarEnd:
    """Starts scripts in place of the worker and knows every process they started."""

    folder: Path

    def target(self, *lines: str) -> Target:
        """A target whose worker is a Python script made of ``lines``."""
        script = self.folder / "far_end.py"
        preamble = PREAMBLE.format(record=str(self._record), hello=HELLO, flood=FLOOD)
        script.write_text(preamble + "\n".join(map(textwrap.dedent, lines)) + "\n")
        return Target(name="odd", command=(sys.executable, str(script)))

    def worker(self, *lines: str, timeouts: Timeouts = PATIENT) -> Worker:
        return Worker(self.target(*lines).argv(), timeouts)

    def processes(self) -> list[psutil.Process]:
        """The processes on record that are still there."""
        pids = self._record.read_text().split() if self._record.exists() else []
        found = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
        return [process for process in found if alive(process)]

    @property
    def temporary_files(self) -> list[str]:
        return sorted(os.listdir(tempfile.gettempdir()))

    @contextmanager
    def cleaned_up(self) -> Iterator[None]:
        """Afterwards no process, no temporary file, no descriptor and no thread is left."""
        before = open_descriptors(), threading.active_count()
        yield
        assert soon(lambda: not self.processes()), f"left behind: {self.processes()}"
        assert self.temporary_files == []
        # The thread that reads stderr ends, and closes it, once the last writer is gone.
        assert soon(lambda: (open_descriptors(), threading.active_count()) == before)

    @property
    def _record(self) -> Path:
        return self.folder / "processes"


@pytest.fixture
def far_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FarEnd:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return FarEnd(tmp_path)


@pytest.fixture(scope="module")
def relu() -> bytes:
    """An ONNX model of one node, ``out = relu(input)``, float32 ``[1, 2]``."""
    given, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("input", "out")
    )
    node = helper.make_node("Relu", ["input"], ["out"])
    graph = helper.make_graph([node], "graph", [given], [out])
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie that init has yet to collect does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# What a worker may do instead of greeting, the error it becomes, and what its message says.
MISBEHAVIOUR: dict[str, tuple[str, type[WorkerError], str]] = {
    "aborts": ("os.abort()", WorkerCrashed, "SIGABRT"),
    "segfaults": ("import ctypes; ctypes.string_at(0)", WorkerCrashed, "SIGSEGV"),
    "illegal instruction": ("os.kill(os.getpid(), signal.SIGILL)", WorkerCrashed, "SIGILL"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", WorkerCrashed, "SIGKILL"),
    "real-time signal": ("os.kill(os.getpid(), 40)", WorkerCrashed, "signal 40"),
    "exits": (
        "print('reading', 'no device 7', sep=chr(10), file=sys.stderr); sys.exit(3)",
        WorkerCrashed,
        r"exit status 3 \(no device 7\)",
    ),
    "raises": ("raise OSError('libfoo.so')", WorkerCrashed, r"exit status 1 \(OSError: libfoo.so"),
    "exits without a word": ("sys.exit(0)", WorkerCrashed, "exit status 0"),
    "hangs": (FOREVER, WorkerTimeout, "'hello' within 1 s"),
    "stops itself": ("os.kill(os.getpid(), signal.SIGSTOP)", WorkerTimeout, "within 1 s"),
    "won't be terminated": (
        f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}",
        WorkerTimeout,
        "killed",
    ),
    "dribbles": (
        "while True: write(b'{'); time.sleep(0.05)",
        WorkerTimeout,
        "within 1 s",
    ),
    "floods stdout": ("flood(sys.stdout.buffer, b'x' * 65536)", WorkerGarbage, "garbage"),
    "floods stdout with lines": (
        "flood(sys.stdout.buffer, b'loading...' + chr(10).encode() * 54)",
        WorkerGarbage,
        "loading",
    ),
    "floods stdout with zeros": (
        "flood(sys.stdout.buffer, bytes(1 << 20))",
        WorkerGarbage,
        "garbage",
    ),
    "floods stderr and hangs": (
        f"flood(sys.stderr, 'x' * 65536); {FOREVER}",
        WorkerTimeout,
        "within 1 s",
    ),
    "floods stderr and aborts": (
        "flood(sys.stderr, 'x' * 65535 + chr(10)); sys.stderr.write('the end'); os.abort()",
        WorkerCrashed,
        r"SIGABRT \(.*the end",
    ),
    "other JSON": ("hear(); write(b'{\"hello\": \"world\"}' + b'\\n')", WorkerGarbage, "world"),
    "JSON list": ("hear(); write(b'[1, 2, 3]\\n')", WorkerGarbage, "1, 2, 3"),
    "nested too deep": ("hear(); write(b'[' * 100_000 + b'\\n')", WorkerGarbage, "garbage"),
    "empty line": ("hear(); write(b'\\n')", WorkerGarbage, "garbage"),
    "not text": ("hear(); write(b'\\xff\\xfe\\n')", WorkerGarbage, "garbage"),
    "no fields": ("hear(); say({})", WorkerError, "install"),
    "fewer bytes, then ends": (
        "hear(); say(HELLO, [{'name': 'a', 'bytes': 1000}]); write(b'abc')",
        WorkerCrashed,
        "exit status 0",
    ),
    "fewer bytes, then hangs": (
        f"hear(); say(HELLO, [{{'name': 'a', 'bytes': 1000}}]); write(b'abc'); {FOREVER}",
        WorkerTimeout,
        "within 1 s",
    ),
    "3 GB announced": (
        f"hear(); say(HELLO, [{{'name': 'a', 'bytes': 3 << 30}}]); {FOREVER}",
        WorkerTimeout,
        "within 1 s",
    ),
    "10^15 bytes announced": (
        f"hear(); say(HELLO, [{{'name': 'a', 'bytes': 10 ** 15}}]); {FOREVER}",
        WorkerGarbage,
        "announces 1000000000000000 bytes",
    ),
    "more than announced": (
        f"hear(); write(json.dumps(HELLO | {{'blobs': []}}).encode() + b'\\nmore'); {FOREVER}",
        WorkerGarbage,
        "4 bytes after the message",
    ),
    "object array": (
        "hear(); say(HELLO, [{'name': 'a', 'dtype': 'object', 'shape': [1], 'bytes': 8}]);"
        f"write(bytes(8)); {FOREVER}",
        WorkerGarbage,
        "garbage",
    ),
    "impossible array": (
        "hear(); say(HELLO, [{'name': 'a', 'dtype': 'int8', 'shape': [-1, -3], 'bytes': 3}]);"
        f"write(bytes(3)); {FOREVER}",
        WorkerGarbage,
        "garbage",
    ),
    "another edgepipe": ("hear(); say(HELLO | {'edgepipe': '0.0.1'})", WorkerError, "0.0.1"),
    "another protocol": ("hear(); say(HELLO | {'protocol': 0})", WorkerError, "install"),
}


@pytest.mark.parametrize(("script", "error", "says"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_misbehaving_worker_is_an_error_that_says_how(
    far_end: FarEnd, script: str, error: type[WorkerError], says: str
) -> None:
    timeouts = IMPATIENT if error is WorkerTimeout else PATIENT
    with (
        far_end.cleaned_up(),
        pytest.raises(error, match=says) as caught,
        far_end.worker(script, timeouts=timeouts),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert len(caught.value.stderr) <= STDERR_KEPT


@pytest.mark.parametrize("closing", ["os.close(0)", "hear(); os.close(1)"])
def test_a_worker_that_closes_a_pipe_and_hangs_did_not_end_well(
    far_end: FarEnd, monkeypatch: pytest.MonkeyPatch, closing: str
) -> None:
    monkeypatch.setattr(launch, "KILL_GRACE_SECONDS", 0.2)
    with (
        far_end.cleaned_up(),
        far_end.worker(GREET, closing, FOREVER) as worker,
        pytest.raises(WorkerError) as caught,
    ):
        worker.load("ort-cpu", {"fp32.onnx": LARGER_THAN_A_PIPE}, Settings(1))
    assert "exit status 0" not in str(caught.value)


def test_the_last_words_of_a_worker_are_kept(far_end: FarEnd) -> None:
    script = "print('x' * 100_000, 'first', 'second', sep=chr(10), file=sys.stderr); sys.exit(3)"
    with far_end.cleaned_up(), pytest.raises(WorkerCrashed) as caught, far_end.worker(script):
        pass
    assert caught.value.stderr.endswith("first\nsecond")


def test_a_worker_that_floods_stderr_and_answers_is_a_good_worker(far_end: FarEnd) -> None:
    flooding = "flood(sys.stderr, 'W: deprecated ' * 5000)"
    with far_end.cleaned_up(), far_end.worker(flooding, GREET, flooding, "hear()") as worker:
        assert worker.hello["host"] == {"physical_cores": 1}


LOADED: dict[str, Any] = {
    "inputs": [{"name": "input", "dtype": "float32", "shape": [None, 2]}],
    "outputs": [],
    "placement": {"device": "CPU", "precision": "f32", "threads": 1, "nodes": {}},
    "runner_version": "1",
    "load_ms": 1.0,
    "from_cache": False,
}
RAN = {"elapsed_ms": 1.0, "peak_rss_mib": 1.0}
MEASURED = {
    "warm_up_runs": 1,
    "settled": True,
    "conditions": {"seconds": 1.0},
    "deviation": 0.0,
    "peak_rss_mib": 1.0,
}
SAMPLES = {"name": "samples", "dtype": "int64", "shape": [0], "bytes": 0}
REQUESTS: dict[str, Callable[[Worker], Any]] = {
    "load": lambda worker: worker.load("ort-cpu", {"fp32.onnx": b""}, Settings(1)),
    "run": lambda worker: worker.run(FEEDS),
    "measure": lambda worker: worker.measure(FEEDS, PLAN),
}


def without(reply: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in reply.items() if key != name}


def replies_that_lack_something() -> Iterator[Any]:
    """(request, reply, blobs), each with one thing missing or of another kind."""
    whole = {"load": (LOADED, []), "run": (RAN, []), "measure": (MEASURED, [SAMPLES])}
    for request, (reply, blobs) in whole.items():
        for name in reply:
            less = without(reply, name)
            yield pytest.param(request, less, blobs, id=f"{request} without {name}")
    broken: dict[str, Any] = {
        "inputs null": {"inputs": None},
        "inputs a number": {"inputs": 3},
        "input without shape": {"inputs": [{"name": "input", "dtype": "float32"}]},
        "input without dimensions": {"inputs": [LOADED["inputs"][0] | {"shape": None}]},
        "placement null": {"placement": None},
        "placement empty": {"placement": {}},
        "placement with more": {"placement": LOADED["placement"] | {"colour": "red"}},
    }
    for name, fields in broken.items():
        yield pytest.param("load", LOADED | fields, [], id=f"load, {name}")
    yield pytest.param("measure", MEASURED, [], id="measure without samples")
    yield pytest.param("measure", MEASURED | {"colour": 1}, [SAMPLES], id="measure with more")


@pytest.mark.parametrize(("request_name", "reply", "blobs"), list(replies_that_lack_something()))
def test_a_reply_that_lacks_a_field_is_garbage(
    far_end: FarEnd, request_name: str, reply: dict[str, Any], blobs: list[Any]
) -> None:
    script = GREET, f"hear(); say({reply!r}, {blobs!r})", FOREVER
    with far_end.cleaned_up(), far_end.worker(*script) as worker:
        with pytest.raises(WorkerGarbage):
            REQUESTS[request_name](worker)
        assert soon(lambda: not far_end.processes())  # killed at once, not when it is closed


@pytest.mark.parametrize(
    "host",
    [None, {}, {"physical_cores": None}, {"physical_cores": "many"}],
    ids=["no host", "no cores", "cores null", "cores text"],
)
def test_a_greeting_without_the_cores_it_has_is_garbage(far_end: FarEnd, host: Any) -> None:
    hello = without(HELLO, "host") | ({} if host is None else {"host": host})
    target = far_end.target(f"hear(); say({hello!r})", FOREVER)
    model = far_end.folder / "fp32.onnx"
    model.write_bytes(bundles.onnx("fp32"))
    cell = Cell("fp32", "ort-cpu", target, "f32", model.name, threads=None)
    with far_end.cleaned_up(), pytest.raises(WorkerGarbage), open_cell(cell, model):
        pass


@pytest.mark.parametrize(
    ("reply", "error"), [("unavailable", RunnerUnavailable), ("failed", SessionError)]
)
def test_a_refusal_is_no_crash(far_end: FarEnd, reply: str, error: type[RunnerError]) -> None:
    script = GREET, f"hear(); say({{{reply!r}: 'no such device'}}); hear(); say({RAN!r})", FOREVER
    with far_end.cleaned_up(), far_end.worker(*script) as worker:
        with pytest.raises(error, match="no such device"):
            worker.run(FEEDS)
        assert worker.run(FEEDS).elapsed_ms == 1.0


@pytest.mark.parametrize(
    ("script", "error"),
    [
        pytest.param(FOREVER, WorkerTimeout, id="hangs"),
        pytest.param(
            f"sys.stdin.buffer.read(1); flood(sys.stdout.buffer, b'x' * 65536); {FOREVER}",
            WorkerTimeout,
            id="floods",
        ),
        pytest.param("sys.stdin.buffer.read(100); os.abort()", WorkerCrashed, id="aborts"),
    ],
)
def test_a_worker_that_does_not_read_its_model_is_no_deadlock(
    far_end: FarEnd, script: str, error: type[WorkerError]
) -> None:
    with (
        far_end.cleaned_up(),
        far_end.worker(GREET, script, timeouts=SHORT) as worker,
        pytest.raises(error, match="load"),
    ):
        worker.load("ort-cpu", {"fp32.onnx": LARGER_THAN_A_PIPE}, Settings(1))


@pytest.mark.parametrize("pipes", ["", "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"])
@pytest.mark.parametrize(
    "end", [FOREVER, "os.abort()", "sys.exit(3)"], ids=["hangs", "aborts", "exits"]
)
def test_a_child_of_the_worker_goes_with_it(far_end: FarEnd, end: str, pipes: str) -> None:
    with (
        far_end.cleaned_up(),
        pytest.raises(WorkerError),
        far_end.worker(f"linger({pipes})", end, timeouts=IMPATIENT),
    ):
        pass


def test_a_child_of_a_good_worker_goes_with_it(far_end: FarEnd) -> None:
    with far_end.cleaned_up(), far_end.worker("linger()", GREET, "hear()"):
        assert len(far_end.processes()) == 2


def test_a_dead_worker_stays_dead(far_end: FarEnd) -> None:
    with far_end.cleaned_up(), far_end.worker(GREET, FOREVER, timeouts=SHORT) as worker:
        with pytest.raises(WorkerTimeout, match="'run'"):
            worker.run(FEEDS)
        with pytest.raises(WorkerCrashed):
            worker.run(FEEDS)


def test_twenty_workers_good_and_bad_leave_nothing(far_end: FarEnd) -> None:
    scripts = [GREET, "os.abort()", "hear(); say({})", f"{GREET}; linger()"]
    with far_end.cleaned_up():
        for number in range(20):
            try:
                with far_end.worker(scripts[number % len(scripts)], "hear()") as worker:
                    assert worker.hello["protocol"] == protocol.VERSION
            except WorkerError:
                assert number % len(scripts) in (1, 2)


def test_one_worker_that_dies_does_not_disturb_another(far_end: FarEnd, relu: bytes) -> None:
    with far_end.cleaned_up(), Worker(LOCAL.argv()) as steady:
        steady.load("ort-cpu", {"relu.onnx": relu}, Settings(1))
        with pytest.raises(WorkerCrashed), far_end.worker("os.abort()"):
            pass
        np.testing.assert_array_equal(steady.run(FEEDS).arrays["out"], [[0, 2]])


def test_a_worker_killed_from_outside_is_reported_with_the_signal(
    far_end: FarEnd, relu: bytes
) -> None:
    with far_end.cleaned_up(), Worker(LOCAL.argv()) as worker:
        worker.load("ort-cpu", {"relu.onnx": relu}, Settings(1))
        psutil.Process(worker.hello["pid"]).kill()
        with pytest.raises(WorkerCrashed, match="'run': SIGKILL"):
            worker.run(FEEDS)


def test_an_exception_of_the_caller_ends_the_worker(far_end: FarEnd) -> None:
    with (
        far_end.cleaned_up(),
        pytest.raises(KeyboardInterrupt),
        far_end.worker("linger()", GREET, FOREVER),
    ):
        raise KeyboardInterrupt


def test_the_parent_sleeps_while_a_worker_measures(relu: bytes) -> None:
    """By the CPU time of this thread: neither other threads nor a busy machine count in it."""
    plan = Plan(0.6, 1, max_seconds=10.0, window_seconds=0.05, warm_up_seconds=0.2)
    with Worker(LOCAL.argv()) as worker:
        worker.load("ort-cpu", {"relu.onnx": relu}, Settings(1))
        busy = time.thread_time()
        measurement, _ = worker.measure(FEEDS, plan)
        busy = time.thread_time() - busy
    assert measurement.conditions.seconds >= plan.seconds
    assert busy < 0.1 * plan.seconds


PARENT = """
import sys
from pathlib import Path
import numpy as np
from edgepipe.runners.base import Settings
from edgepipe.runners.workers.launch import Worker
from edgepipe.runners.targets import LOCAL
from edgepipe.runners.timing.plan import Plan

with Worker(LOCAL.argv()) as worker:
    worker.load("ort-cpu", {"relu.onnx": Path(sys.argv[1]).read_bytes()}, Settings(1))
    print(worker.hello["pid"], flush=True)
    if sys.argv[2] == "measuring":
        feeds = {"input": np.zeros((1, 2), np.float32)}
        worker.measure(feeds, Plan(1000.0, 1, 1000.0, 0.1, 1.0))
    sys.stdin.read()
"""


@pytest.mark.parametrize("doing", ["waiting", "measuring", "stopped"])
def test_a_worker_whose_parent_was_killed_ends_by_itself(
    tmp_path: Path, relu: bytes, doing: str
) -> None:
    (tmp_path / "relu.onnx").write_bytes(relu)
    command = [sys.executable, "-c", PARENT, str(tmp_path / "relu.onnx"), doing]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)  # into the measuring
        assert alive(worker)
        if doing == "stopped":  # as good as hanging in a library that lets no other thread run
            worker.suspend()
        parent.kill()
    try:
        assert soon(lambda: not alive(worker))
    finally:
        if worker.is_running():
            worker.kill()


def test_a_terminal_interrupt_is_the_parents_to_handle(relu: bytes) -> None:
    with Worker(LOCAL.argv()) as worker:
        psutil.Process(worker.hello["pid"]).send_signal(signal.SIGINT)
        worker.load("ort-cpu", {"relu.onnx": relu}, Settings(1))


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(("env", "FOO=1", "{python}"), id="env"),
        pytest.param(("env", "FOO=1", "nice", "-n", "1", "{python}"), id="two prefixes"),
        pytest.param(("sh", "-c", 'FOO=1 "$@"; exit $?', "sh", "{python}"), id="shell that waits"),
        pytest.param(("sh", "-c", 'FOO=1 exec {python} "$@"', "sh"), id="inside an argument"),
    ],
)
def test_a_prefix_command_starts_the_worker_and_ends_with_it(
    far_end: FarEnd, prefix: tuple[str, ...]
) -> None:
    with far_end.cleaned_up():
        with Worker(Target(command=prefix).argv()) as worker:
            process = psutil.Process(worker.hello["pid"])
            assert process.environ()["FOO"] == "1"
            assert process.cmdline()[0] == sys.executable
        assert soon(lambda: not alive(process))


def test_a_worker_runs_in_the_interpreter_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "environment").symlink_to(sys.prefix)
    python = tmp_path / "environment" / Path(sys.executable).relative_to(sys.prefix)
    with Worker(LOCAL.argv(str(python))) as worker:
        assert psutil.Process(worker.hello["pid"]).cmdline()[0] == str(python)


def test_an_interpreter_without_edgepipe_is_an_error_that_says_so(
    far_end: FarEnd, tmp_path: Path
) -> None:
    environment = tmp_path / "bare"
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True, timeout=60)
    with (
        far_end.cleaned_up(),
        pytest.raises(RunnerError, match="No module named"),
        Worker(LOCAL.argv(str(environment / "bin" / "python"))),
    ):
        pass


@pytest.mark.parametrize("command", ["no-such-command", "/no/such/python", "{folder}"])
def test_a_command_that_cannot_be_started_is_unavailable(far_end: FarEnd, command: str) -> None:
    command = command.replace("{folder}", str(far_end.folder))
    with (
        far_end.cleaned_up(),
        pytest.raises(RunnerUnavailable, match=command),
        Worker(Target(command=(command, "{python}")).argv()),
    ):
        pass


def test_the_worker_does_not_import_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    with Worker(LOCAL.argv()) as worker:
        assert worker.hello["protocol"] == protocol.VERSION


def test_requests_in_the_wrong_order_are_refused_and_the_worker_goes_on(relu: bytes) -> None:
    with Worker(LOCAL.argv()) as worker:
        for request in ("run", "measure"):
            with pytest.raises(SessionError, match="no model is loaded"):
                REQUESTS[request](worker)
        worker.load("ort-cpu", {"relu.onnx": relu}, Settings(1))
        worker.run(FEEDS)


@pytest.mark.parametrize("name", ["../escaped.onnx", "/escaped.onnx", "sub/escaped.onnx", "..", ""])
def test_a_model_file_is_not_written_outside_its_folder(
    far_end: FarEnd, relu: bytes, name: str
) -> None:
    with far_end.cleaned_up(), Worker(LOCAL.argv()) as worker:
        with pytest.raises(SessionError):
            worker.load("ort-cpu", {name: relu}, Settings(1))
        worker.load("ort-cpu", {"relu.onnx": relu}, Settings(1))


def test_anybody_can_speak_the_protocol_and_the_worker_ends_with_its_input() -> None:
    with subprocess.Popen(LOCAL.argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b'{"op": "hello", "blobs": []}\n')
        process.stdin.flush()
        hello = json.loads(process.stdout.readline())
        process.stdin.close()
        assert process.stdout.read() == b""
        process.wait(30)
    assert (hello["protocol"], hello["edgepipe"]) == (protocol.VERSION, version("edgepipe"))
