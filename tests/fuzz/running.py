"""A command in a fork of this process, with limits on time, memory and where it may write."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import Case
from .world import homes

PATIENCE_SECONDS = 60.0
MOST_BYTES = 2 << 30
# Libraries map more than they use: what is used is asked for afterwards.
MOST_ADDRESSES = 24 << 30
EXPECTED = frozenset(range(7))


@dataclass(frozen=True)
class Outcome:
    """How a case ended: ``fault`` is what is wrong with that, if anything."""

    case: Case
    code: int
    seconds: float
    said: str
    fault: str | None


@dataclass(frozen=True)
class _Running:
    case: Case
    folder: Path
    started: float


class Pool:
    """Runs cases side by side. Import all that they need before there is one."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[int, _Running] = {}

    def start(self, case: Case, folder: Path) -> Iterator[Outcome]:
        """Start a case in the folder that was made for it; yields those that had to end for it."""
        while len(self._running) >= self._jobs:
            yield self._ended()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            _run(case, folder)
        self._running[pid] = _Running(case, folder, time.monotonic())

    def finish(self) -> Iterator[Outcome]:
        """Yield what is still under way."""
        while self._running:
            yield self._ended()

    def _ended(self) -> Outcome:
        while True:
            for pid, one in self._running.items():
                late = time.monotonic() - one.started > PATIENCE_SECONDS
                if late:
                    os.killpg(pid, signal.SIGKILL)
                ended, status, used = os.wait4(pid, 0 if late else os.WNOHANG)
                if ended:
                    del self._running[pid]
                    code = os.waitstatus_to_exitcode(status)
                    return _judged(one, code, used.ru_maxrss << 10, late)
            time.sleep(0.004)


def _judged(one: _Running, code: int, memory: int, late: bool) -> Outcome:
    said = (one.folder / "said.txt").read_text(errors="replace")
    escaped = one.folder / "escaped.txt"
    fault = None
    if late:
        fault = f"no end after {PATIENCE_SECONDS:.0f} s"
    elif escaped.exists():
        fault = f"wrote outside: {escaped.read_text().splitlines()[0]}"
    elif code not in EXPECTED:
        fault = f"exit code {code}"
    elif "Traceback" in said:
        fault = "a traceback"
    elif memory > MOST_BYTES:
        fault = f"{memory >> 20} MiB of memory"
    return Outcome(one.case, code, time.monotonic() - one.started, said, fault)


def _run(case: Case, folder: Path) -> None:
    """The command itself, in the fork. Does not return."""
    code = 70
    try:
        os.setsid()
        output = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - until the fork ends
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ |= {**homes(folder), "TMPDIR": str(folder / "tmp"), "PYTHONFAULTHANDLER": "1"}
        (folder / "tmp").mkdir()
        tempfile.tempdir = None  # where this process found it
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = ["edgepipe", *case.command]
        code = _main(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main(folder: Path) -> int:
    from edgepipe.pipeline.cli import main

    _watch(folder)
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    return 0


def _watch(folder: Path) -> None:
    """Note every file that is opened for writing, moved or removed outside the folder."""
    inside = os.path.realpath(folder) + os.sep
    noted: list[str] = []

    def check(event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.path.realpath(os.fsdecode(path)) + os.sep
        if text.startswith((inside, "/dev/", "/proc/")) or noted:
            return
        noted.append(text)
        (folder / "escaped.txt").write_text(f"{event} {text}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                check(f"open {mode}", path)
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            check(event, arguments[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            check(event, arguments[1])

    sys.addaudithook(hook)
