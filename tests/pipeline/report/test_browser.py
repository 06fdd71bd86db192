"""report: as a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


BROWSER = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)


# A frame of that width around the page, and a script outside it that reads its measures.
FRAME = """<!DOCTYPE html><body style="margin: 0">
<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<pre></pre>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement
  const shown = [...page.querySelectorAll("svg")].filter(one => one.getBoundingClientRect().width)
  document.querySelector("pre").textContent = JSON.stringify({{
    scroll: root.scrollWidth,
    client: root.clientWidth,
    plots: shown.length,
    widest: Math.max(...shown.map(one => one.getBoundingClientRect().right)),
    tables: page.querySelectorAll("table").length,
    text: parseFloat(getComputedStyle(shown[0].querySelector("text")).fontSize)
      * shown[0].getBoundingClientRect().width / shown[0].viewBox.baseVal.width,
  }})
}})
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_scrolling_sideways_or_complaining(
    full_page: str, tmp_path: Path, width: int
) -> None:
    assert CHROMIUM
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(full_page)))
    command = [CHROMIUM, *BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, "--window-size=1300,900", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout)
    assert found, done.stdout[-2000:]
    measured = json.loads(html.unescape(found[1]))
    assert measured["scroll"] == measured["client"]
    assert measured["plots"] == 5
    assert measured["widest"] <= width
    assert measured["tables"] == 16
    assert measured["text"] >= 10.5  # pixels on the screen
    assert "CONSOLE" not in done.stderr
