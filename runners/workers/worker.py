"""The child process that holds one session: ``python -P -m edgepipe.runners.workers.worker``.

It reads requests from stdin and answers on what was its stdout; whatever a library prints to
stdout goes to stderr instead. It ends with its input, so that a worker on any machine ends
with its parent: see ``watchdog``. With ``--isa NAME`` it computes as an older CPU, proves it, and
has only those runners that can: see ``isa``. Requests (see ``protocol`` for the wire format):

    hello                      -> {version, edgepipe, pid, host}
    inspect                    -> {host, load, installed, cuda, nvml}
    describe {runner}          -> {formats, precisions, reason, version, devices}
    load {runner, settings, file, at, cache, profiled} + files -> {inputs, outputs, placement, …}
    cache                      -> {} + files
    run + feeds                -> {elapsed_ms} + outputs
    meter {threads}            -> {work, threads, numpy}
    warm_up {plan} + feeds     -> {free_mib}
    slice {rest}               -> {}
    finish                     -> {warm_up_runs, settled, …} + samples
    measure {plan} + feeds     -> the three in one
    profile {plan} + feeds     -> {statistic, total_us, nodes} + samples
    usage                      -> {rss_mib, threads, descriptors, clock_mhz, temperature_c}
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from io import BufferedReader
from pathlib import Path
from time import perf_counter_ns
from typing import Any, BinaryIO

import numpy as np

from .. import registry
from ..base import (
    NO_PROFILER,
    Builder,
    ProfiledSession,
    Profiler,
    Runner,
    RunnerUnavailable,
    Session,
    SessionError,
    Settings,
    StorageFull,
    session_error,
)
from ..machine import cuda, host, installed, isa, nvml, own_process, usage
from ..machine.files import temporary_files
from ..targets import Isa
from ..timing import meter
from ..timing.measure import Timer
from ..timing.plan import Plan
from ..timing.profile import profile
from . import protocol, watchdog

MAX_REASON = 600
Operation = Callable[[protocol.Message, protocol.Blobs], Any]


def hello(_message: protocol.Message, _blobs: protocol.Blobs) -> Any:
    """Who is at this end: versions, process id, facts about the machine."""
    return {
        "protocol": protocol.VERSION,
        "edgepipe": version("edgepipe"),
        "pid": os.getpid(),
        "host": host.facts(),
    }, {}


class Worker:
    """Answers requests; holds at most one session. ``cap``: the older CPU that it computes as."""

    def __init__(self, cap: Isa | None = None) -> None:
        self._session: Session | None = None
        self._profiled: ProfiledSession | None = None
        self._timer: Timer | None = None
        self._cache = Path(os.devnull)
        self._cap = cap
        self._heard: list[str] = []

    def hello(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """As ``hello``; the machine is what it computes as.

        Raises ``RunnerUnavailable`` where the CPU has not all of it: oneDNN would use less.
        """
        reply, files = hello(message, blobs)
        if self._cap is not None:
            if reason := isa.lacking(self._cap, reply["host"]):
                raise RunnerUnavailable(reason)
            reply["host"] = isa.capped(self._cap, reply["host"])
        return reply, files

    def inspect(self, _message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """The machine and what is installed on it, for ``edgepipe doctor``."""
        return {
            "host": host.facts(),
            "load": host.load(),
            "installed": installed.facts(),
            "cuda": cuda.facts(),
            "nvml": nvml.facts(),
        }, {}

    def describe(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """What a runner takes and has here, or the reason why it can't run here."""
        runner = registry.get(message["runner"])
        reason = self._why_not(runner)
        return {
            "formats": runner.formats,
            "precisions": runner.precisions,
            "reason": reason,
            "version": None if reason else runner.version(),
            "devices": [] if reason else runner.devices(),
            "tunables": getattr(runner, "tunables", {}),
            "builds_for": runner.builds_for() if isinstance(runner, Builder) and not reason else {},
        }, {}

    def load(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """Load the model files that came; ``file`` names the main one, or ``at`` where it lies.

        ``cache`` names those that an earlier load left in its cache, ``None`` for no cache. With
        ``profiled`` it is a session for ``profile``; a runner that has none refuses.
        """
        runner = registry.get(message["runner"])
        if reason := self._why_not(runner):
            raise RunnerUnavailable(reason)
        host.limit_memory()
        settings = Settings(**message["settings"])
        cached = message.get("cache")
        if cached is not None:
            self._cache = Path(tempfile.mkdtemp(prefix="edgepipe-"))
            settings = replace(settings, cache=str(self._cache))
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            for name, data in blobs.items():
                if Path(name).name != name or not isinstance(data, Path):
                    raise protocol.ProtocolError(f"model file name {name!r}")
                place = self._cache if cached and name in cached else Path(folder)
                data.rename(place / name)
            path, profiled = Path(folder) / message.get("at", message["file"]), None
            with self._listening():
                loading = perf_counter_ns()
                if message.get("profiled"):
                    session = profiled = _profiler(runner).load_profiled(path, settings)
                else:
                    session = runner.load(path, settings)
                loaded = perf_counter_ns()
                placement = session.placement  # only now: see Session.placement
        if self._cap is not None:
            placement = replace(placement, isa=self._proven(self._cap, runner.name))
        self._session, self._profiled = session, profiled
        return {
            "inputs": [asdict(spec) for spec in session.inputs],
            "outputs": [asdict(spec) for spec in session.outputs],
            "placement": asdict(placement),
            "runner_version": runner.version(),
            "load_ms": (loaded - loading) / 1e6,
            "from_cache": getattr(session, "from_cache", False),
        }, {}

    def cache(self, _message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """What the load left in its cache."""
        return {}, {path.name: path for path in self._cache.iterdir()}

    def run(self, _message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """Run the session once; the reply holds every output."""
        session = self._loaded()
        feeds = _feeds(session, blobs)
        started = perf_counter_ns()
        outputs = session.run(feeds)
        elapsed = perf_counter_ns() - started
        return {"elapsed_ms": elapsed / 1e6, "peak_rss_mib": host.peak_rss_mib()}, outputs

    def meter(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """Get the meter ready in place of a model."""
        self._session = meter.Meter(message["threads"])
        return meter.description(message["threads"]), {}

    def warm_up(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """Get the session ready to be timed on one set of feeds."""
        session = self._loaded()
        host.refuse_emulated()
        self._timer = Timer(session, _feeds(session, blobs), Plan(**message["plan"]))
        self._timer.warm_up()
        return {"free_mib": host.free_memory() / 2**20}, {}

    def slice(self, message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """Time the session for a slice, after one run that doesn't count.

        With ``rest`` the answer comes when its idle threads have stopped using the CPU.
        """
        timer = self._timing()
        timer.wake()
        timer.slice()
        if message["rest"]:
            timer.rest()
        return {}, {}

    def finish(self, _message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """What the slices gave."""
        result = self._timing().finish()
        self._timing().close()
        self._timer = None
        return {
            "warm_up_runs": result.warm_up_runs,
            "settled": result.settled,
            "deviation": result.deviation,
            "slices": result.slices,
            "rests": result.rests,
            "conditions": asdict(result.conditions),
            "on_device_ms": result.on_device_ms,
            "device_memory_mib": nvml.memory_mib(),
            "peak_rss_mib": host.peak_rss_mib(),
        }, {"samples": result.samples}

    def measure(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """Warm up, time one slice, and say what it gave."""
        self.warm_up(message, blobs)
        self._timing().slice()
        return self.finish(message, blobs)

    def profile(self, message: protocol.Message, blobs: protocol.Blobs) -> Any:
        """Say what each node of a session that was loaded for it takes."""
        if (session := self._profiled) is None:
            raise SessionError("no model is loaded to be profiled")
        host.refuse_emulated()
        samples, found = profile(session, _feeds(session, blobs), Plan(**message["plan"]))
        return asdict(found), {"samples": samples}

    def usage(self, _message: protocol.Message, _blobs: protocol.Blobs) -> Any:
        """What this process holds now, and how fast and how warm the machine is."""
        return asdict(usage.read()), {}

    def _timing(self) -> Timer:
        if self._timer is None:
            raise SessionError("nothing was warmed up")
        return self._timer

    def _why_not(self, runner: Runner) -> str | None:
        if self._cap is not None and (reason := registry.why_not_capped(runner.name, self._cap)):
            return reason
        with self._listening():  # it may run a probe, and oneDNN names itself once
            return runner.unavailable()

    def _listening(self) -> AbstractContextManager[None]:
        return nullcontext() if self._cap is None else isa.listening(self._heard)

    def _proven(self, cap: Isa, runner: str) -> str:
        """What oneDNN says it uses. Raises ``SessionError`` if that isn't the cap."""
        said = self._heard[0] if self._heard else "nothing"
        if said not in cap.logged:
            raise SessionError(
                f"{runner} was to compute as {cap.value}, and says of what it uses: {said}"
            )
        return said

    def _loaded(self) -> Session:
        if self._session is None:
            raise SessionError("no model is loaded")
        return self._session


def operations(cap: Isa | None = None) -> dict[str, Operation]:
    """What a new worker answers, by the name of the request."""
    worker = Worker(cap)
    return {
        "hello": worker.hello,
        "inspect": worker.inspect,
        "describe": worker.describe,
        "load": worker.load,
        "cache": worker.cache,
        "run": worker.run,
        "meter": worker.meter,
        "warm_up": worker.warm_up,
        "slice": worker.slice,
        "finish": worker.finish,
        "measure": worker.measure,
        "profile": worker.profile,
        "usage": worker.usage,
    }


def serve(reader: BufferedReader, writer: BinaryIO, answers: Mapping[str, Operation]) -> None:
    """Answer requests until the input ends.

    Files arrive on the disk, in a folder that lasts as long as the answering: whoever wants to
    keep one moves it.
    """
    while line := reader.readline(protocol.MAX_HEADER_BYTES):
        message, entries = protocol.decode_header(line)
        with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            try:
                blobs: protocol.Blobs = {
                    entry["name"]: protocol.receive(reader, entry, Path(folder) / str(number))
                    for number, entry in enumerate(entries)
                }
            except EOFError:
                return
            for buffer in _reply(message, blobs, answers):
                writer.write(buffer)
            writer.flush()


def _reply(
    message: protocol.Message, blobs: protocol.Blobs, answers: Mapping[str, Operation]
) -> Iterator[Any]:
    """The buffers of an operation's answer, or of why there is none."""
    try:
        # Encoded here: outputs that can't travel (text) are the session's failure too.
        with temporary_files():
            reply = protocol.encode(*answers[message["op"]](message, blobs))
            header = next(reply)
    except Exception as error:  # a runner may raise anything; the parent decides what it means
        if isinstance(error, MemoryError):  # numpy's own, outside of any runner
            error = session_error(error)
        found = (name for name, kind in protocol.REFUSALS.items() if isinstance(error, kind))
        if name := next(found, ""):
            yield from protocol.encode({name: _one_line(str(error))})
        else:
            yield from protocol.encode({"failed": _one_line(f"{type(error).__name__}: {error}")})
    else:
        yield header
        yield from reply


def _profiler(runner: Runner | Profiler) -> Profiler:
    """A runner as the ``Profiler`` that it may be, too."""
    if isinstance(runner, Profiler):
        return runner
    raise SessionError(NO_PROFILER.format(runner.name))


def _feeds(session: Session, blobs: protocol.Blobs) -> dict[str, np.ndarray]:
    """Every input has to be there: OpenVINO would go on with what it was fed last."""
    feeds = {name: blob for name, blob in blobs.items() if isinstance(blob, np.ndarray)}
    missing = [spec.name for spec in session.inputs if spec.name not in feeds]
    if missing:
        raise SessionError(f"no feed for input {', '.join(missing)}")
    return feeds


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"


def main(answers: Mapping[str, Operation] | None = None) -> None:
    """Serve on stdin and the original stdout: a worker's answers, unless others are given."""
    own_process.claim()
    cap = isa.cap_of(sys.argv)
    isa.compute_as(cap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a worker ends
    reader = os.fdopen(os.dup(0), "rb")
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with temporary_files():
            _watchdog = watchdog.guard()  # kept: there is no waiting for it
            serve(reader, writer, answers or operations(cap))
    except BrokenPipeError:
        os._exit(1)
    # Half a request is still in the pipe: these can't be answered.
    except StorageFull as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(protocol.FULL_STATUS)
    except MemoryError:
        os._exit(protocol.MEMORY_STATUS)


if __name__ == "__main__":
    main()
