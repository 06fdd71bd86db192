"""Child processes that end with this one, whatever ends it, and take theirs along.

``run`` puts a command into a process group of its own, led by a guard: this file, run as a
script. An exception here (Ctrl-C, SIGTERM) kills the group; if this process is killed, the
pipe to the guard breaks, and the guard does it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without input; its output and errors are in ``stdout``, as they came."""
    life, held = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *command],
            stdin=life,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            process_group=0,
        )
        os.close(life)
        try:
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()  # until the last of them is gone and lets go of the pipe
            raise
    finally:
        os.close(held)
    return subprocess.CompletedProcess(command, process.returncode, output)


def _end_with_parent() -> None:
    """Sleep until stdin hangs up, which only the end of the parent makes it do."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode)
