"""What a model sees of an image: the pixels after the geometry, and the tensor as a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...runners.images import Pixels, Preprocessing, normalize

CHANNELS_SHOWN = 8  # with their figures


@dataclass(frozen=True)
class Channel:
    """One channel of the tensor: its place and what it holds ("0 R"), and its own values."""

    name: str
    least: float
    most: float
    mean: float


@dataclass(frozen=True)
class Look:
    """An image as a model gets it.

    ``pixels`` and ``tensor`` are pictures, uint8 ``[H, W, 3]``, see ``as_picture``. The latter
    shows the normalized values. Its black is the least that a byte becomes in any channel, its
    white the most: ``span``. ``channels`` are the first ``CHANNELS_SHOWN``.
    """

    pixels: Pixels
    tensor: Pixels
    channels: tuple[Channel, ...]
    span: tuple[float, float]

    @property
    def ends(self) -> str:
        """The ``span`` in words."""
        low, high = self.span
        return f"black is {low:.2f}, white {high:.2f}"


def look_at(pixels: Pixels, preprocessing: Preprocessing) -> Look:
    """What the model sees of uint8 ``[H, W, C]`` after the geometry.

    If normalization is folded into the model, it is computed here as the model does it.
    """
    plain = replace(preprocessing, folded=False)
    values = normalize(pixels[None], plain)[0]
    ends = [
        (end - mean) / std
        for mean, std in zip(plain.mean, plain.std, strict=True)
        for end in (0.0, 1.0)
    ]
    low, high = min(ends), max(ends)
    shown = np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)
    channels = tuple(
        Channel(
            _name(place, plain), float(one.min()), float(one.max()), float(one.mean(dtype=float))
        )
        for place, one in enumerate(values[:CHANNELS_SHOWN])
    )
    shown = as_picture(shown.transpose(1, 2, 0))
    return Look(as_picture(pixels), shown, channels, (low, high))


def as_picture(image: np.ndarray) -> Pixels:
    """uint8 ``[H, W, C]`` as ``[H, W, 3]``: the first three channels as red, green and blue.

    One alone is grey; of two the picture has no blue.
    """
    channels = image.shape[2]
    if channels == 1:
        return image.repeat(3, axis=2)
    if channels == 2:
        return np.dstack([image, np.zeros_like(image[..., 0])])
    return image[..., :3]


def in_colors(preprocessing: Preprocessing) -> str:
    """How ``as_picture`` shows the channels, for a legend."""
    count = len(preprocessing.mean)
    if count == 1:
        return "its one channel as grey"
    if count <= 3:
        return f"its channels as {'red, green, blue' if count == 3 else 'red and green'}"
    return f"the first 3 of {count} channels as red, green, blue"


def _name(place: int, preprocessing: Preprocessing) -> str:
    """ "0 R", and where a channel has no name its place alone."""
    if preprocessing.channels in ("rgb", "bgr"):
        return f"{place} {preprocessing.channels[place].upper()}"
    return "0 grey" if preprocessing.channels == "grey" else str(place)
