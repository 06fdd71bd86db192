"""What a model sees of an image: the pixels after the geometry, and the tensor as a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...runners.images import Pixels, Preprocessing, normalize


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

    ``pixels`` and ``tensor`` are pictures, uint8 ``[H, W, 3]``. The latter shows the normalized
    values, the model's first channel as red, the second as green, the third as blue. Its black is
    the least that a byte becomes in any channel, its white the most: ``span``.
    """

    pixels: Pixels
    tensor: Pixels
    channels: tuple[Channel, ...]
    span: tuple[float, float]


def look_at(pixels: Pixels, preprocessing: Preprocessing) -> Look:
    """What the model sees of uint8 ``[H, W, 3]`` after the geometry.

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
        Channel(f"{place} {name}", float(one.min()), float(one.max()), float(one.mean(dtype=float)))
        for place, (name, one) in enumerate(zip(plain.channels.upper(), values, strict=True))
    )
    return Look(pixels, shown.transpose(1, 2, 0), channels, (low, high))
