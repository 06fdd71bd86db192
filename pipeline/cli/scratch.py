"""One folder for the temporary files of a command, of its libraries and child processes."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...runners.machine.locks import hold
from ..errors import InputError

PREFIX = "edgepipe-"
# Held as long as the command lives: the kernel lets go of it however the command ends.
# It has its name only when it is held.
OWNER, COMING = ".owner", ".owner-coming"


@contextmanager
def folder() -> Iterator[None]:
    """Let all temporary files lie in one folder, which goes last; clear those of killed commands.

    Whoever makes a temporary file removes it, but an interrupt can fall just between the making
    and the taking note of it. Raises ``InputError`` if there is no place for them.
    """
    try:
        made = Path(tempfile.mkdtemp(prefix=PREFIX))
        hold(made / COMING)  # till the end
        (made / COMING).rename(made / OWNER)
    except OSError as error:
        raise InputError(f"no place for temporary files, set TMPDIR: {error.strerror}") from error
    try:
        _sweep(made)
        os.environ["TMPDIR"] = tempfile.tempdir = str(made)
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(made, ignore_errors=True)


def _sweep(own: Path) -> None:
    """Delete the folders of this user's commands that ended without deleting theirs."""
    for left in own.parent.glob(f"{PREFIX}*"):
        try:
            if left == own or left.is_symlink() or left.stat().st_uid != os.getuid():
                continue
            if _is_ownerless(left):
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # somebody else was faster
            continue


def _is_ownerless(left: Path) -> bool:
    if not (left / OWNER).exists():  # not made by a command, or by one that is only starting
        return False
    try:
        os.close(hold(left / OWNER))
    except BlockingIOError:
        return False
    return True
