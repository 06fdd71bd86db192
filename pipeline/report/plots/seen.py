"""What a model saw of the images that it was asked about, as a PNG with a row for each.

Photographs are decoded again, one at a time, by what decoded them for the model.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ....runners.images import Geometry, Preprocessing, load_image, to_pixels
from ...judging.predict import Prediction, PredictResult
from ..looks import CHANNELS_SHOWN, Look, as_picture, in_colors, look_at
from ..tables import preparation
from ..tables.formatting import shortened

MOST_SHOWN = 12  # rows: more than that nobody looks at, and no viewer shows well
# In pixels.
WIDTH, PANEL, GAP, MARGIN = 1240, 256, 24, 28
HEAD, NAME, LINE, ASCENT = 138, 26, 15, 10
TEXT = MARGIN + 3 * (PANEL + GAP)
TITLES = (
    ("as decoded, upright", "framed: what is left of it"),
    ("the pixels that go in", "after resize and crop"),
    ("the tensor", ""),
)
PAPER, INK, QUIET, FRAME = "#fbfbf9", "#1b1d1f", "#565b61", "#b3480e"  # those of report.css
CLASSES_SHOWN = 5
NAME_WIDTH = 90  # characters
LABEL_WIDTH = 24


def png(result: PredictResult) -> tuple[bytes, int]:
    """The picture, and how many images are on it: the first ``MOST_SHOWN`` that could be read.

    Equal images and equal answers give equal bytes. Raises ``ImportError`` without matplotlib,
    ``ImageError`` for a file that can't be read any more.
    """
    answered = [one for one in result.predictions if one.error is None]
    shown = answered[:MOST_SHOWN]
    preprocessing = Preprocessing.from_json(result.preprocessing)
    height = HEAD + len(shown) * (NAME + PANEL + GAP) + MARGIN
    with _canvas(height) as canvas:
        _head(canvas, result, preprocessing, (len(shown), len(answered)))
        for place, prediction in enumerate(shown):
            _row(canvas, HEAD + place * (NAME + PANEL + GAP), prediction, preprocessing)
        return canvas.png(), len(shown)


class _Canvas:
    """A figure whose places are pixels, counted from its left and its top."""

    def __init__(self, figure: Any, height: int) -> None:
        self._figure, self._height = figure, height

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """A line of text that begins there; lines of any letters stand equally far apart."""
        plain = " ".join(text.split()) if style.get("family") != "monospace" else text
        place = x / WIDTH, 1 - (y + ASCENT) / self._height
        self._figure.text(*place, plain, **{"va": "baseline", "color": INK, "fontsize": 9, **style})

    def picture(self, x: int, y: int, pixels: np.ndarray) -> Any:
        """A picture as large as the panel lets it be; returns its axes.

        Small ones get larger by a whole number, so that each of their pixels is a square.
        """
        height, width = pixels.shape[:2]
        fits = PANEL / max(height, width)
        scale = fits if fits < 1 else float(int(fits))
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        bottom = self._height - y - down
        box = (x / WIDTH, bottom / self._height, across / WIDTH, down / self._height)
        axes = self._figure.add_axes(box)
        axes.imshow(
            pixels,
            aspect="auto",
            interpolation="nearest" if scale >= 1 else "antialiased",
            extent=(0, width, height, 0),
        )
        axes.set_axis_off()
        return axes

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self._figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


@contextmanager
def _canvas(height: int) -> Iterator[_Canvas]:
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    with rc_context(), warnings.catch_warnings():
        rcdefaults()  # whatever the user's own style is, the bytes are to be the same
        rcParams["text.parse_math"] = False  # names of files and labels are no formulas
        # A label in another script has boxes for letters; the text of the command has it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        dots = 100
        figure = Figure(figsize=(WIDTH / dots, height / dots), dpi=dots, facecolor=PAPER)
        yield _Canvas(figure, height)


def _head(
    canvas: _Canvas, result: PredictResult, preprocessing: Preprocessing, counts: tuple[int, int]
) -> None:
    shown, answered = counts
    some = f", the first {shown} of {answered} images" if shown < answered else ""
    name = f"What {result.model['name']} sees{some}"
    canvas.text(MARGIN, 22, name, fontsize=13, weight="bold")
    *lines, last = preparation.steps(preprocessing)
    lines.append(f"{last}; answers of {result.variant} / {result.runner}")
    for place, line in enumerate(lines):
        canvas.text(MARGIN, 48 + place * LINE, line, color=QUIET)
    for place, (title, more) in enumerate(TITLES):
        x = MARGIN + place * (PANEL + GAP)
        canvas.text(x, HEAD - 36, title, weight="bold")
        legend = more or in_colors(preprocessing)
        canvas.text(x, HEAD - 36 + LINE, legend, color=QUIET, fontsize=8)


def _row(canvas: _Canvas, top: int, prediction: Prediction, preprocessing: Preprocessing) -> None:
    image = load_image(Path(prediction.image), preprocessing.bands)
    look = look_at(to_pixels(image, preprocessing), preprocessing)
    name = shortened(prediction.image, NAME_WIDTH)
    height, width = image.shape[:2]
    canvas.text(MARGIN, top + 8, f"{name}, {width} × {height}", color=QUIET)
    top += NAME
    axes = canvas.picture(MARGIN, top, _thumbnail(as_picture(image)))
    _frame(axes, image, preprocessing)
    for place, picture in enumerate((look.pixels, look.tensor), start=1):
        canvas.picture(MARGIN + place * (PANEL + GAP), top, picture)
    lines = [*_figures(look, len(preprocessing.mean)), "", *_classes(prediction)]
    for place, line in enumerate(lines):
        canvas.text(TEXT, top + place * LINE, line, family="monospace")


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """A photograph of many megapixels as large as its panel: the rest would only cost memory."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((2 * PANEL, 2 * PANEL))
    return np.asarray(picture)


def _frame(axes: Any, image: np.ndarray, preprocessing: Preprocessing) -> None:
    """What the model sees of the photograph: dark on light, so that it shows on any ground."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    left, top, right, bottom = Geometry.of(width, height, preprocessing).seen
    across, down = axes.get_xlim()[1] / width, axes.get_ylim()[0] / height
    for color, line in (("white", 3.5), (FRAME, 1.5)):
        frame = Rectangle(
            (left * across, top * down),
            (right - left) * across,
            (bottom - top) * down,
            fill=False,
            edgecolor=color,
            linewidth=line,
            clip_on=False,
        )
        axes.add_patch(frame)


def _figures(look: Look, count: int) -> list[str]:
    """The tensor's own values, a line for each of the first of its ``count`` channels."""
    lines = [f"{'channel':<9}{'least':>8}{'most':>8}{'mean':>8}"]
    lines += [
        f"{one.name:<9}{one.least:>8.2f}{one.most:>8.2f}{one.mean:>8.2f}" for one in look.channels
    ]
    if count > CHANNELS_SHOWN:
        lines.append(f"and {count - CHANNELS_SHOWN} more")
    return [*lines, look.ends]


def _classes(prediction: Prediction) -> list[str]:
    return [
        f"{guess.probability:>6.1%}  {_label(guess.label)}"
        for guess in prediction.top[:CLASSES_SHOWN]
    ]


def _label(text: str) -> str:
    """One line, cut where it gets too long: a label's beginning tells most."""
    line = " ".join(text.split())
    return line if len(line) <= LABEL_WIDTH else line[: LABEL_WIDTH - 1] + "…"
