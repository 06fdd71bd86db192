"""From an image to the tensor: the geometry ends in uint8, the arithmetic is elementwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from .decoding import Pixels
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    import PIL.Image

Box = tuple[int, int, int, int]  # left, top, right, bottom
# Sides of an image in relation to each other, beyond which its ends are cut off before a resize;
# of a square input, and so many times more of one that is longer.
LONGEST = 16


@dataclass(frozen=True)
class Geometry:
    """Which part of an image a model sees, all in pixels.

    The ``strip`` of the image is resized to ``resized`` (width, height), and of that ``cut`` is
    the model's input.
    """

    strip: Box
    resized: tuple[int, int]
    cut: Box

    @classmethod
    def of(cls, width: int, height: int, preprocessing: Preprocessing) -> Self:
        """For an image of this size."""
        wanted = (preprocessing.width, preprocessing.height)
        strip, least = (0, 0, width, height), preprocessing.resize_to or 1
        if preprocessing.resize == "shorter-side":
            strip = _centre(width, height, LONGEST * max(wanted) / min(wanted))
            lengths = (strip[2] - strip[0], strip[3] - strip[1])
            covering = [side / length for side, length in zip(wanted, lengths, strict=True)]
            scale = max(least / min(lengths), *covering)
        else:
            lengths, scale = wanted, max(1.0, least / min(wanted))
        across, down = (
            max(side, round(length * scale)) for side, length in zip(wanted, lengths, strict=True)
        )
        left, top = (across - wanted[0]) // 2, (down - wanted[1]) // 2
        return cls(strip, (across, down), (left, top, left + wanted[0], top + wanted[1]))

    @property
    def seen(self) -> tuple[float, float, float, float]:
        """What is left of the image, in its own pixels: left, top, right, bottom."""
        left, top, right, bottom = self.strip
        across, down = (right - left) / self.resized[0], (bottom - top) / self.resized[1]
        cut = self.cut
        return (
            left + across * cut[0],
            top + down * cut[1],
            left + across * cut[2],
            top + down * cut[3],
        )


def _centre(width: int, height: int, aspect: float) -> Box:
    """A strip cut down to what can end up in the crop: enlarged as a whole it fills the memory."""
    longest = round(aspect * min(width, height))
    left, top = (max(0, (length - longest) // 2) for length in (width, height))
    return left, top, width - left, height - top


def to_pixels(image: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """Bring an image to the model's input size, with antialiasing.

    ``image`` is uint8, ``[H, W]`` (grey, repeated over the channels) or ``[H, W, 3]``, of "bands"
    ``[H, W, C]``. Grey is made of colours before the resize (ITU-R 601 luma, Pillow's
    "L"). Returns uint8 ``[height, width, C]``.
    """
    from PIL import Image

    height, width = image.shape[:2]
    geometry = Geometry.of(width, height, preprocessing)
    method = Image.Resampling[preprocessing.interpolation.upper()]
    parts = []
    for picture in _pictures(image, preprocessing):
        if geometry.strip != (0, 0, width, height):
            picture = picture.crop(geometry.strip)
        parts.append(np.asarray(picture.resize(geometry.resized, method).crop(geometry.cut)))
    return parts[0] if parts[0].ndim == 3 else np.dstack(parts)


def _pictures(image: np.ndarray, preprocessing: Preprocessing) -> Iterator[PIL.Image.Image]:
    """What Pillow can resize: a picture, or one for each band."""
    from PIL import Image

    if preprocessing.bands is not None:
        for band in range(preprocessing.bands):
            yield Image.fromarray(np.ascontiguousarray(image[..., band]))
        return
    flat = image[..., 0] if image.shape[2:] == (1,) else image
    yield Image.fromarray(flat).convert("L" if preprocessing.channels == "grey" else "RGB")


def stack(images: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """``to_pixels`` over the first axis: uint8 ``[N, height, width, C]``."""
    return np.stack([to_pixels(image, preprocessing) for image in images])


def normalize(pixels: Pixels, preprocessing: Preprocessing) -> np.ndarray:
    """Turn uint8 ``[N, H, W, C]`` into what the model takes.

    float32 ``[N, C, H, W]``, ``(x / 255 - mean) / std``; or, if the model does that itself
    (``folded``), the pixels as they are.
    """
    if preprocessing.folded:
        return pixels
    mean = np.asarray(preprocessing.mean, np.float32)[:, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None]
    # A byte has 256 values: compute each once and look it up, a sixth of the time.
    values = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
    tensor = np.empty((len(pixels), len(mean), *pixels.shape[1:3]), np.float32)
    order = range(len(mean)) if preprocessing.channels != "bgr" else (2, 1, 0)
    for place, channel in enumerate(order):
        # "clip" never happens; the default would check every index, and copy for that.
        np.take(values[place], pixels[..., channel], out=tensor[:, place], mode="clip")
    return tensor


def batches(array: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, slice, int]]:
    """Cut ``[N, ...]`` into runs of ``batch``: yields ``(part, rows, valid)``.

    A last part that isn't full is filled up with its own images, of whose outputs only the
    first ``valid`` count.
    """
    for start in range(0, len(array), batch):
        rows = slice(start, min(start + batch, len(array)))
        part = array[rows]
        full = part if len(part) == batch else np.resize(part, (batch, *part.shape[1:]))
        yield full, rows, len(part)
