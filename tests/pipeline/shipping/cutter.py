"""A connection that breaks: ``cutter.py STEP PHASE COMMAND…`` stands between the two ends.

It starts the command and passes requests and replies on. At request number STEP it kills the
command and ends itself: once half of the request was passed on (``half``), once all of it was
(``after``), or when the reply begins to arrive (``reply``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from edgepipe.runners.workers import protocol


def main(step: int, phase: str, command: list[str]) -> None:
    """Pass on until it is time to cut."""
    far = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert far.stdin
    assert far.stdout
    replies, cut_reply = far.stdout, threading.Event()

    def cut() -> None:
        far.kill()
        os._exit(1)

    def pass_back() -> None:
        while chunk := os.read(replies.fileno(), 1 << 16):
            if cut_reply.is_set():
                cut()
            os.write(1, chunk)
        os._exit(0)

    threading.Thread(target=pass_back, daemon=True).start()
    number = 0
    while line := sys.stdin.buffer.readline():
        _, entries = protocol.decode_header(line)
        message = line + sys.stdin.buffer.read(sum(entry["bytes"] for entry in entries))
        if number == step and phase == "reply":
            cut_reply.set()
        whole = number != step or phase != "half"
        far.stdin.write(message if whole else message[: len(message) // 2])
        far.stdin.flush()
        if number == step and phase != "reply":
            cut()
        number += 1


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
