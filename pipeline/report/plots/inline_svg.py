"""matplotlib's drawings as SVG for inside a page, which lends them its colours and its font.

What is drawn has stand-in colours, one for each role; they become the page's CSS variables.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from ...errors import MissingLibrary

DOTS_PER_INCH = 72  # matplotlib's SVG has 72 units to the inch
# What matplotlib draws with, and the CSS variable that takes its place.
INK, QUIET, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")
BAND, BAD = "#060606", "#070707"
VARIABLES = {
    INK: "--ink",
    QUIET: "--quiet",
    GRID: "--rule",
    SURFACE: "--surface",
    BAND: "--band",
    BAD: "--bad",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, 1)},
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgepipe",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.minor.size": 3.5,  # as the major ones: both carry numbers on a log scale
    "xtick.minor.pad": 3.5,
    "text.parse_math": False,
}
# Characters that no XML file may hold; a layer of somebody's model may be called so.
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@contextmanager
def figure_of(width: int, height: int) -> Iterator[tuple[Any, Callable[[str, str], str]]]:
    """An empty figure in pixels, and what makes the SVG of it, given a name and a description."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingLibrary(f'report: {error}; pip install "edgepipe[report]"') from error

    with rc_context(STYLE), warnings.catch_warnings():
        # The browser has the glyphs: only their widths are guessed here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(
            figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH),
            dpi=DOTS_PER_INCH,
            layout="constrained",
        )
        FigureCanvasAgg(figure)  # measures text for the labels

        def finish(name: str, description: str) -> str:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            svg = NOT_XML.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue().decode())
            return _inline(svg, f"{name}-{width}", NOT_XML.sub(" ", description))

        yield figure, finish


def saved(figure: Any) -> str:
    """A figure as the text of a file of its own."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text stays text, and equal results give equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgepipe"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _inline(svg: str, name: str, description: str) -> str:
    """SVG for inside a page: its own ids, the page's colours and fonts, a description."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)  # noqa: S314 - matplotlib's
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{SVG}}}metadata":
                parent.remove(child)
    referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in referenced:
                    element.set(key, f"{name}-{value}")
                else:
                    del element.attrib[key]
            elif key.endswith("href"):
                element.set(key, value.replace("#", f"#{name}-", 1))
            else:
                element.set(key, _restyle(value.replace("url(#", f"url(#{name}-")))
    for key in ("width", "height"):
        del root.attrib[key]
    root.set("role", "img")
    root.set("aria-label", description)
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(value: str) -> str:
    for color, variable in VARIABLES.items():
        value = value.replace(color, f"var({variable})")
    return re.sub(r"(font: [^;]*?px) [^;]*", r"\1 var(--sans)", value)
