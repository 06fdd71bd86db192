"""The parent's side of a worker: start it on a target, ask it, and survive whatever it does.

A target is only a command that ends in a Python; this file knows nothing of who is at the
other end. Pipes are non-blocking and every wait is a poll() with a deadline, so that a worker
which hangs, stops reading or floods costs a time-out and not the run; while a worker measures,
the parent sleeps in the kernel.

Not execnet, going by its source: its kill reaches one process and not the group, it hides the
exit signal, and it keeps a receiver thread in the worker that is being timed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..base import (
    NodeTimes,
    OutOfMemory,
    RunnerError,
    RunnerUnavailable,
    SessionError,
    Settings,
    StorageFull,
    WorkerCrashed,
    WorkerError,
    WorkerGarbage,
    WorkerTimeout,
)
from ..machine.files import temporary_files
from ..machine.usage import Usage
from ..targets import INSTALL, SSH_REMEDIES
from ..timing.measure import Measurement
from ..timing.plan import Plan
from . import answers, protocol
from .answers import Description, Loaded, Outputs
from .pipes import signal_name, wait, widen

STDERR_KEPT = 16 << 10
KILL_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a worker may take to answer each request."""

    start: float = 60.0
    load: float = 180.0
    run: float = 60.0


@dataclass
class Worker:
    """One worker process. A context manager: leaving it ends the whole process group.

    ``start``, ``request`` and ``close`` are all that knows of the process; ``scripted`` puts
    others in their place.
    """

    argv: Sequence[str]
    timeouts: Timeouts = field(default_factory=Timeouts)
    _pid: int | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.hello = self._greet()
        except BaseException as error:
            self.close()
            if isinstance(error, RunnerError):
                error.greeted = False
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process. Raises ``RunnerUnavailable`` where there is no such command."""
        # Whatever the worker puts into temporary files goes when this side closes it.
        with temporary_files():
            self._folder = tempfile.TemporaryDirectory(
                prefix="edgepipe-", ignore_cleanup_errors=True
            )
        try:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=os.environ | {"TMPDIR": self._folder.name, "SSH_ASKPASS_REQUIRE": "never"},
            )
        except OSError as error:
            self._folder.cleanup()
            remedy = INSTALL.get(self.argv[0])
            text = f"can't start {self.argv[0]}: {error.strerror}"
            unavailable = RunnerUnavailable(f"{text}; {remedy}" if remedy else text)
            unavailable.greeted = False
            raise unavailable from error
        assert self._process.stdin
        assert self._process.stdout
        self._pid = self._process.pid
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        widen(self._stdin)
        self._stderr = bytearray()
        self._drain = threading.Thread(target=self._keep_stderr, daemon=True)
        self._drain.start()

    def inspect(self) -> Mapping[str, Any]:
        """The machine and what is installed there: see the ``facts`` of host, installed, cuda."""
        reply, _ = self.request("inspect", {}, {}, self.timeouts.run)
        return reply

    def describe(self, runner: str) -> Description:
        """Ask about a runner. Raises ``RunnerUnavailable`` for one that isn't there or broken."""
        reply, _ = self.request("describe", {"runner": runner}, {}, self.timeouts.load)
        with self._expecting("describe"):
            return answers.description(reply)

    def load(
        self,
        runner: str,
        files: Mapping[str, bytes | Path],
        settings: Settings,
        cache: Mapping[str, bytes] | None = None,
        profiled: bool = False,
    ) -> Loaded:
        """Send a model's files (the main one first) and load it. See ``Runner.load``.

        Neither end holds a file that is given as a path in its memory; a worker on this machine
        reads it where it lies.

        With a ``cache`` (what ``cache`` returned, or empty) the runner may use and fill it. Only
        a session that is ``profiled`` can be asked for its ``profile``.
        """
        fields: dict[str, Any] = {"runner": runner, "file": next(iter(files))}
        fields |= {"settings": asdict(settings), "cache": None if cache is None else list(cache)}
        fields["profiled"] = profiled
        main = next(iter(files.values()))
        if self._is_here and isinstance(main, Path):
            fields["at"], files = str(main.absolute()), {}
        blobs = {**files, **(cache or {})}
        reply, _ = self.request("load", fields, blobs, self.timeouts.load)
        with self._expecting("load"):
            return answers.loaded(reply)

    def cache(self) -> dict[str, bytes]:
        """The files that ``load`` left in its cache; empty if the runner has none."""
        _, files = self.request("cache", {}, {}, self.timeouts.run)
        return files

    def run(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """Run the loaded session once."""
        reply, arrays = self.request("run", {}, feeds, self.timeouts.run)
        with self._expecting("run"):
            return Outputs(arrays, reply["elapsed_ms"], reply["peak_rss_mib"])

    def meter(self, threads: int) -> Mapping[str, Any]:
        """Have the meter in place of a model: see ``timing.meter``; returns what it does."""
        reply, _ = self.request("meter", {"threads": threads}, {}, self.timeouts.load)
        return reply

    def warm_up(self, feeds: Mapping[str, np.ndarray], plan: Plan) -> float:
        """Get the loaded session ready for slices; returns the MiB that are free there then.

        From now on the worker's process is stopped whenever it has no turn, if it is on this
        machine: idle threads of a pool may wait in a loop, in another one's slice.
        """
        patience = plan.warm_up_seconds + self.timeouts.run
        self._plan, self._slices = plan, 0
        reply, _ = self.request("warm_up", {"plan": asdict(plan)}, feeds, patience)
        self._signal(signal.SIGSTOP)
        with self._expecting("warm_up"):
            return float(reply["free_mib"])

    def slice(self) -> None:
        """Time the session for a slice; this side sleeps meanwhile."""
        self._signal(signal.SIGCONT)
        patience = 2 * self._plan.max_seconds + self.timeouts.run
        self.request("slice", {"rest": not self._is_here}, {}, patience)
        self._signal(signal.SIGSTOP)
        self._slices += 1

    def finish(self) -> tuple[Measurement, float]:
        """What the slices gave: the measurement and the peak memory in MiB."""
        self._signal(signal.SIGCONT)
        reply, arrays = self.request("finish", {}, {}, self.timeouts.run)
        with self._expecting("finish"):
            return answers.measured(reply, arrays, self._slices)

    @property
    def _is_here(self) -> bool:
        """Whether the process that was started is the worker, and not one that leads to it."""
        return self.hello.get("pid") == self._pid

    def _signal(self, number: int) -> None:
        if self._is_here and self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def measure(self, feeds: Mapping[str, np.ndarray], plan: Plan) -> tuple[Measurement, float]:
        """``warm_up``, one slice and ``finish``, at a stretch."""
        patience = plan.warm_up_seconds + plan.max_seconds + self.timeouts.run
        reply, arrays = self.request("measure", {"plan": asdict(plan)}, feeds, patience)
        with self._expecting("measure"):
            return answers.measured(reply, arrays, 1)

    def profile(self, feeds: Mapping[str, np.ndarray], plan: Plan) -> tuple[np.ndarray, NodeTimes]:
        """Ns of each run of the session, which was loaded for it, and what its nodes take."""
        patience = plan.warm_up_seconds + plan.max_seconds + self.timeouts.run
        reply, arrays = self.request("profile", {"plan": asdict(plan)}, feeds, patience)
        with self._expecting("profile"):
            return arrays["samples"], answers.node_times(reply)

    def usage(self) -> Usage:
        """What the worker's process holds now, and how fast and how warm its machine is."""
        reply, _ = self.request("usage", {}, {}, self.timeouts.run)
        with self._expecting("usage"):
            return Usage(**reply)

    def request(
        self,
        operation: str,
        fields: Mapping[str, Any],
        blobs: Mapping[str, Any],
        timeout: float,
    ) -> tuple[protocol.Message, dict[str, Any]]:
        """Send one request and wait for its reply.

        Raises one of ``protocol.REFUSALS`` if that is the reply, and a
        ``WorkerError`` (after killing the process group) if there is none.
        """
        # Outside the try: what can't be encoded is the caller's mistake, not the worker's.
        buffers = protocol.encode({"op": operation, **fields}, blobs)
        try:
            header = next(buffers)
        except OSError as error:
            raise SessionError(f"{error.filename}: {error.strerror}") from error
        deadline = time.monotonic() + timeout
        try:
            self._write(header, deadline)
            for buffer in buffers:
                self._write(buffer, deadline)
            message, arrays = self._read_message(deadline)
        except TimeoutError as error:
            self._kill()
            text = f"the worker did not answer {operation!r} within {timeout:g} s and was killed"
            raise WorkerTimeout(text, self._last_words()) from error
        except (BrokenPipeError, EOFError) as error:
            raise self._crash(operation) from error
        except protocol.ProtocolError as error:
            raise self._garbage(operation, error) from error
        except OSError as error:  # a file that was to be sent; half of it may be on its way
            self._kill()
            raise SessionError(f"{error.filename}: {error.strerror}") from error
        for name, kind in protocol.REFUSALS.items():
            if name in message:
                raise kind(message[name])
        return message, arrays

    def close(self) -> None:
        """End the worker and everything in its process group, and wait until it is gone."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._folder.cleanup()

    def _greet(self) -> protocol.Message:
        hello, _ = self.request("hello", {}, {}, self.timeouts.start)
        here = version("edgepipe")
        if hello.get("protocol") != protocol.VERSION or hello.get("edgepipe") != here:
            there = hello.get("edgepipe", "something else")
            raise WorkerError(
                f"the worker has edgepipe {there}, here it is {here}: install {here} there"
            )
        with self._expecting("hello"):
            int(hello["host"]["physical_cores"])
        return hello

    def _crash(self, operation: str) -> RunnerError:
        # The pipe broke, so the process has ended or is about to.
        try:
            status = self._process.wait(KILL_GRACE_SECONDS)
            how = signal_name(-status) if status < 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            how = "it closed its pipe and was killed"
        self._kill()
        words = self._last_words()
        last = words.splitlines()[-1].strip() if words else ""
        if self._process.returncode == protocol.FULL_STATUS:
            return StorageFull(last)
        if self._process.returncode == protocol.MEMORY_STATUS:
            return OutOfMemory(f"the worker has no memory for what it was sent with {operation!r}")
        text = f"the worker ended during {operation!r}: {how}" + (f" ({last})" if last else "")
        remedy = next((SSH_REMEDIES[sign] for sign in SSH_REMEDIES if sign in last), None)
        return WorkerCrashed(f"{text}; {remedy}" if remedy else text, words)

    @contextmanager
    def _expecting(self, operation: str) -> Iterator[None]:
        """A well-formed message can still lack what the operation answers."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._garbage(operation, error) from error

    def _garbage(self, operation: str, error: Exception) -> WorkerGarbage:
        self._kill()
        text = f"the worker answered {operation!r} with garbage ({error}) and was killed"
        if operation == "hello":
            text += "; if a shell prints that before it starts Python, silence it"
        return WorkerGarbage(text, self._last_words())

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # the whole group may be gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _last_words(self) -> str:
        self._drain.join(0.5)
        return self._stderr.decode("utf-8", "replace").strip()

    def _keep_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe
        with pipe:
            while chunk := pipe.read(65536):
                self._stderr += chunk
                del self._stderr[:-STDERR_KEPT]

    def _write(self, buffer: memoryview, deadline: float) -> None:
        while buffer:
            wait(self._stdin, select.POLLOUT, deadline)
            try:
                buffer = buffer[os.write(self._stdin, buffer) :]
            except BlockingIOError:
                continue

    def _read_message(self, deadline: float) -> tuple[protocol.Message, dict[str, Any]]:
        received = bytearray()
        while (end := received.find(b"\n")) < 0:
            if len(received) > protocol.MAX_HEADER_BYTES:
                raise protocol.ProtocolError(f"a line of over {len(received)} bytes")
            received += self._read_some(65536, deadline)
        message, entries = protocol.decode_header(bytes(received[:end]))
        rest = received[end + 1 :]
        arrays: dict[str, Any] = {}
        for entry in entries:
            data = rest[: entry["bytes"]]
            rest = rest[entry["bytes"] :]
            while len(data) < entry["bytes"]:
                data += self._read_some(min(1 << 20, entry["bytes"] - len(data)), deadline)
            arrays[entry["name"]] = protocol.decode_blob(entry, data)
        if rest:
            raise protocol.ProtocolError(f"{len(rest)} bytes after the message")
        return message, arrays

    def _read_some(self, most: int, deadline: float) -> bytes:
        while True:
            wait(self._stdout, select.POLLIN, deadline)
            try:
                chunk = os.read(self._stdout, most)
            except BlockingIOError:
                continue
            if not chunk:
                raise EOFError
            return chunk
