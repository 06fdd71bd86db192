"""Workers on this machine: processes of one thread, that end with the command whatever ends it.

Everything listens on 127.0.0.1 alone and speaks TLS with a key of this run: whoever else is on
the machine can't have the workers run anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ClusterError
from . import member
from .member import QUIET

HOST = "127.0.0.1"
# Workers that are started in place of lost ones, for each that was asked for.
MOST_REVIVALS = 3
END_SECONDS = 5.0


@dataclass
class LocalWorkers:
    """A scheduler in this process, and ``count`` workers."""

    address: str
    security: Any
    folder: Path
    count: int
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _started: int = 0

    @classmethod
    @contextmanager
    def started(cls, count: int, distributed: Any) -> Iterator[LocalWorkers]:
        """Start all of them; leaving ends them. Raises ``ClusterError`` where that can't be."""
        try:
            security = distributed.Security.temporary()
            scheduler = distributed.LocalCluster(
                n_workers=0,
                processes=True,
                host=HOST,
                protocol="tls://",
                security=security,
                dashboard_address=f"{HOST}:0",
                silence_logs=QUIET,
            )
        except ImportError as error:
            raise ClusterError(f'{error}; pip install "edgepipe[cluster]"') from error
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"no scheduler can be started here: {error}") from error
        with scheduler, tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
            found = cls(scheduler.scheduler_address, security, Path(folder), count)
            try:
                for _ in range(count):
                    found._start()
                yield found
            finally:
                found._end()

    def revive(self) -> None:
        """Start workers in place of those that ended. Raises ``ClusterError`` for too many."""
        for process in [one for one in self._processes if one.poll() is not None]:
            self._processes.remove(process)
            _let_go(process)
            if self._started >= self.count * (1 + MOST_REVIVALS):
                raise ClusterError(
                    f"local:{self.count}: {self._started} workers were started and ended "
                    f"({_how(process.returncode)}): look for what ends them (memory?); finished "
                    "shards are kept"
                )
            self._start()

    def _start(self) -> None:
        number, self._started = self._started, self._started + 1
        scratch = self.folder / str(number)
        scratch.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", member.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
        self._processes.append(process)
        told = {
            "address": self.address,
            "name": str(number),
            "host": HOST,
            "folder": str(scratch),
            "security": {
                name: getattr(self.security, name)
                for name in self.security.__slots__
                if name.startswith("tls_") and isinstance(getattr(self.security, name), str)
            },
        }
        assert process.stdin
        with suppress(BrokenPipeError):  # it is dead already, which is seen when it is missed
            process.stdin.write(json.dumps(told, allow_nan=False).encode() + b"\n")
            process.stdin.flush()

    def _end(self) -> None:
        """A worker ends with its stdin, and its sessions with it."""
        for process in self._processes:
            _let_go(process)
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Close a worker's stdin, with which it ends."""
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
