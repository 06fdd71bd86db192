"""Ends a worker whose other side is gone, with what it started, and clears away temporary files.

A process of its own, and a group: a worker that hangs inside a library, or that was stopped,
can't end itself, and over SSH nobody else is there to do it. It sleeps in the kernel meanwhile.

    python -I -S watchdog.py WORKER DESCRIPTOR FOLDER    (stdin: the worker's)
"""

import os
import select
import signal
import subprocess
import sys
import tempfile


def guard() -> "subprocess.Popen[bytes]":
    """Start it for this process, whose temporary files go into a folder that it will remove."""
    folder = tempfile.mkdtemp(prefix="edgepipe-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    life, _held_until_death = os.pipe()
    arguments = (str(os.getpid()), str(life), folder)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(life,),
            process_group=0,
        )
    finally:
        os.close(life)


def main(worker: int, life: int, folder: str) -> None:
    """Wait until stdin hangs up or the worker is dead.

    ``life`` is the read end of a pipe that the worker ``worker`` holds open while it lives.
    ``folder`` is removed when it is dead.
    """
    poller = select.poll()
    poller.register(life, 0)
    # Only hang-ups are asked for: a pipe reports POLLHUP, a socket (sshd's) POLLRDHUP.
    poller.register(0, getattr(select, "POLLRDHUP", 0))
    while True:
        hung_up = {descriptor for descriptor, _ in poller.poll()}
        if life in hung_up:
            break
        poller.unregister(0)
        if os.getppid() == worker:  # else it ended a moment ago, and its number may be another's
            # In a group that another leads (a shell that waits) the worker is all that is ours.
            leads = os.getpgid(worker) == worker
            (os.killpg if leads else os.kill)(worker, signal.SIGKILL)
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
