"""Commands that end with this process, whatever ends it, and take along what they started.

A worker of its own runs the command: it ends with its parent, and its whole process group with it.

    python -P -m edgepipe.runners.workers.command
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ..targets import LOCAL
from . import protocol, worker
from .launch import Worker

LONGEST_SECONDS = 86400.0


def run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command without input; its output and errors are in ``stdout``, as they came.

    ``environment`` is what differs from this process's. Raises ``RunnerError`` if there is no
    such command.
    """
    fields = {"command": list(command), "environment": dict(environment)}
    with Worker(LOCAL.argv(module=__name__)) as runs:
        reply, blobs = runs.request("command", fields, {}, LONGEST_SECONDS)
    output = blobs["output"].decode("utf-8", "replace")
    return subprocess.CompletedProcess(command, reply["status"], output)


def _run(message: protocol.Message, _blobs: protocol.Blobs) -> Any:
    """{command, environment} -> {status} + output."""
    done = subprocess.run(
        message["command"],
        env=os.environ | message["environment"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return {"status": done.returncode}, {"output": done.stdout}


if __name__ == "__main__":
    worker.main({"hello": worker.hello, "command": _run})
