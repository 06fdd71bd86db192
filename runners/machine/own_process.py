"""Processes that are edgepipe's own, and what is done in those alone.

``load_bundle`` works inside somebody's application, which keeps its environment, its modules and
its stderr. Workers and the command line claim theirs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_claimed = False


def claim() -> None:
    """Say that this process is edgepipe's own, before any library is imported in it."""
    global _claimed
    _claimed = True
    refuse_telemetry()


def claimed() -> bool:
    """Whether this process is edgepipe's own."""
    return _claimed


def refuse_telemetry() -> None:
    """Keep libraries, also those of child processes, from reporting home.

    onnxruntime's Linux wheels do so unless told not to before anything imports them, and onnxsim
    imports them, too. openvino reports each import through a package, and does without it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]


@contextmanager
def native_log(log: list[str]) -> Iterator[None]:
    """Append what native code writes to stderr meanwhile, and pass it on afterwards.

    It is the only place where onnxruntime says why a provider can't be made: the error that it
    raises is that the CPU provider would have to step in. An application's stderr is its own.
    """
    if not claimed():
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            written = file.read()
            log.append(written.decode("utf-8", "replace"))
            os.write(2, written)
