"""Headless Chromium, spoken to over a pipe in the DevTools protocol; no driver in between."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

# Chromium reads commands from descriptor 3 and answers on 4.
START = """
import os, sys
here, far = (os.dup2(int(number), 100 + place) for place, number in enumerate(sys.argv[1:3]))
os.dup2(here, 3), os.dup2(far, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page. A context manager."""

    def __init__(self, url: str, profile: Path, size: tuple[int, int] = (900, 700)) -> None:
        assert CHROMIUM
        here, far = os.pipe(), os.pipe()
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
        width, height = size
        more = (f"--window-size={width},{height}", f"--user-data-dir={profile}", "--no-first-run")
        command = [sys.executable, "-c", START, str(here[0]), str(far[1]), CHROMIUM]
        self._process = subprocess.Popen(
            [*command, *flags, *more, "about:blank"],
            pass_fds=(here[0], far[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(here[0])
        os.close(far[1])
        self._write, self._read = os.fdopen(here[1], "wb"), os.fdopen(far[0], "rb")
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session = ""
        try:
            self._open(url)
        except BaseException:
            self.__exit__()
            raise

    def _open(self, url: str) -> None:
        target = self.ask("Target.createTarget", url=url)["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")
        self.until(f"location.href === {url!r} && document.readyState === 'complete'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, 9)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._write.close()
        self._read.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events are passed over."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 30.0) -> Any:
        """Wait until an expression is true; returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def draw(self, points: Sequence[tuple[float, float]]) -> None:
        """One stroke with the mouse."""
        (x, y), *others = points
        pressed = {"button": "left", "buttons": 1, "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **pressed)
        for x, y in others:
            self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **pressed)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, **pressed)

    def choose(self, selector: str, file: Path) -> None:
        """Give a file to a file input."""
        expression = f"document.querySelector({selector!r})"
        found = self.ask("Runtime.evaluate", expression=expression)["result"]
        self.ask("DOM.setFileInputFiles", files=[str(file)], objectId=found["objectId"])

    def screenshot(self, path: Path) -> None:
        """A PNG of what is seen."""
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def _message(self) -> bytes:
        while b"\0" not in self._rest:
            chunk = self._read.read1(1 << 16)
            assert chunk, "Chromium ended"
            self._rest += chunk
        message, self._rest = self._rest.split(b"\0", 1)
        return message
