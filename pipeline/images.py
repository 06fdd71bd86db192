"""Preprocessing as data: from an image to the tensor a model takes, in one place.

Two steps, kept apart on purpose. ``to_pixels`` does the geometry and ends in uint8, which is
what a camera delivers and what goldens store. ``normalize`` is elementwise float32 arithmetic,
so that the same pixels give the same tensor, bit for bit, on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from ..exporters.sources import DIGITS_DATASET

Pixels = np.ndarray  # uint8 [H, W, 3], or [N, H, W, 3]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor.

    ``size`` is the side of the square input in pixels. ``resize`` is "squash" (to the square,
    aspect ratio not kept) or "shorter-side" (the shorter side to ``resize_to``, then the
    centre square). ``mean`` and ``std`` are per channel (R, G, B) of values in [0, 1].
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"
    resize_to: int | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From the manifest's ``preprocessing``."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})

    def to_json(self) -> dict[str, Any]:
        """For the manifest: JSON values only."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def at(self, size: int | None) -> Self:
        """The same for another input size, the resize in proportion."""
        if size is None or size == self.size:
            return self
        resize_to = self.resize_to and round(self.resize_to * size / self.size)
        return replace(self, size=size, resize_to=resize_to)


def to_pixels(image: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """Bring an image to the model's input size, bilinear with antialiasing.

    ``image`` is uint8, ``[H, W]`` (grey, repeated over the channels) or ``[H, W, 3]``.
    Returns uint8 ``[size, size, 3]``.
    """
    from PIL import Image

    side = preprocessing.size
    picture = Image.fromarray(image).convert("RGB")
    if preprocessing.resize == "squash":
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    shorter = preprocessing.resize_to or side
    scale = shorter / min(picture.size)
    width, height = (max(shorter, round(length * scale)) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def stack(images: np.ndarray, preprocessing: Preprocessing) -> Pixels:
    """``to_pixels`` over the first axis: uint8 ``[N, size, size, 3]``."""
    return np.stack([to_pixels(image, preprocessing) for image in images])


def normalize(pixels: Pixels, preprocessing: Preprocessing) -> np.ndarray:
    """Turn uint8 ``[N, H, W, 3]`` into float32 ``[N, 3, H, W]``: ``(x / 255 - mean) / std``."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((scaled - mean) / std).transpose(0, 3, 1, 2))


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """The embedded digits: ``part`` is "train" or "held_out".

    Returns images, uint8 ``[N, 8, 8]``, and labels, uint8 ``[N]``. They are the test set of
    UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, CC BY 4.0).
    """
    with np.load(DIGITS_DATASET) as archive:
        return archive[f"{part}_images"], archive[f"{part}_labels"]
