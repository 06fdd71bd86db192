"""The examples as a person uses them: the camera loop in a terminal, the kiosk in a browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .browser import CHROMIUM, Browser

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)")


def test_a_camera_that_is_too_fast_loses_frames_and_not_the_program(bundle: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "camera" / "camera.py"), str(bundle)]
    flags = ("--frames", "5", "--rate", "1e6", "--runner", "ort-cpu")
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 5 frames" in done.stdout


def test_the_camera_loop_shows_percentiles_that_the_frames_can_carry(bundle: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "camera" / "camera.py"), str(bundle)]
    flags = ("--frames", "80", "--rate", "20", "--runner", "ort-cpu")
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dropped = re.search(r"dropped: (\d+) of 80 frames", done.stdout)
    inference = re.search(r"inference: +p50 [\d.]+.* \((\d+) frames\)", done.stdout)
    assert dropped
    assert inference
    assert int(dropped[1]) + int(inference[1]) == 80
    assert ("p90" in inference[0]) == (int(inference[1]) >= 64)
    assert "p99" not in done.stdout


@pytest.fixture(scope="module")
def kiosk(bundle: Path) -> Iterator[str]:
    """The address of a running kiosk."""
    command = [sys.executable, str(EXAMPLES / "kiosk" / "kiosk.py"), str(bundle)]
    flags = ("--port", "0", "--runner", "ort-cpu")
    with subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        yield process.stdout.readline().split()[0]
        process.terminate()


@pytest.fixture(scope="module")
def goldens(exported: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(exported / "mobilenet_v2" / "goldens.npz") as archive:
        return archive["images"], archive["fp32.logits"].argmax(axis=1)


def post(url: str, data: bytes, path: str = "classify") -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}{path}", data)) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_picture_gets_its_digit(
    kiosk: str, goldens: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, answers = goldens
    right = 0
    for image, answer in list(zip(images, answers, strict=True))[:10]:
        Image.fromarray(image).save(tmp_path / "digit.png")
        status, found = post(kiosk, (tmp_path / "digit.png").read_bytes())
        assert status == 200
        shares = [one["probability"] for one in found["top"]]
        assert shares == sorted(shares, reverse=True)
        right += found["label"] == str(answer)
    assert right >= 9, "int8 may differ in one"


@pytest.mark.parametrize(
    ("data", "path", "status", "says"),
    [
        (b"no picture", "classify", 400, "no picture in any of"),
        (b"\x89PNG\r\n\x1a\n", "classify", 400, ""),
        (b"", "classify", 413, "at most 16 MiB"),
        (b"x", "elsewhere", 404, "nothing here"),
    ],
)
def test_what_is_no_picture_is_said_and_no_path_shown(
    kiosk: str, data: bytes, path: str, status: int, says: str
) -> None:
    code, found = post(kiosk, data, path)
    assert code == status
    assert says in found["error"]
    assert "/tmp" not in found["error"]
    assert post(kiosk, data, path)[0] == status, "still there"


@needs_chromium
def test_digits_are_drawn_and_chosen_in_the_browser(
    kiosk: str, goldens: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, answers = goldens
    place = int(np.flatnonzero(answers == 4)[0])
    Image.fromarray(images[place]).save(tmp_path / "four.png")
    (tmp_path / "text.png").write_text("no picture")
    label = "document.getElementById('label').textContent"
    note = "document.getElementById('note').textContent"
    with Browser(kiosk, tmp_path / "profile") as page:
        assert "on ort-cpu" in page.until("document.getElementById('about').textContent")
        page.evaluate("document.getElementById('classify').click()")
        assert page.evaluate(note) == "Draw a digit first."

        box = page.evaluate(
            "(({x, y, width}) => [x, y, width])"
            "(document.getElementById('canvas').getBoundingClientRect())"
        )
        x, y, side = box
        circle = [
            (
                x + side * (0.5 + 0.22 * math.sin(turn / 12 * math.tau)),
                y + side * (0.5 - 0.36 * math.cos(turn / 12 * math.tau)),
            )
            for turn in range(13)
        ]
        page.draw(circle)
        page.until(f"{note}.startsWith('in ')")
        page.screenshot(tmp_path / "zero.png")
        assert page.evaluate(label) == "0"
        assert page.evaluate("document.querySelectorAll('#top .row').length") == 3

        page.evaluate("document.getElementById('clear').click()")
        assert page.evaluate(label) == "–"
        page.choose("#file", tmp_path / "four.png")
        page.until(f"{label} === '4'")
        page.choose("#file", tmp_path / "text.png")
        page.until(f"{label} === '?'")
        assert "no picture in any of" in page.evaluate(note)
        page.screenshot(tmp_path / "error.png")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With the programs that it names in another place: they have to exist for systemd."""
    text = (EXAMPLES / "systemd" / "edgepipe-serve@.service").read_text()
    unit = tmp_path / "edgepipe-serve@kiosk.service"
    unit.write_text(re.sub(r"/opt/edgepipe/bin/\w+", sys.executable, text))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, done.stderr
