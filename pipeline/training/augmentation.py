"""Augmentation: no two epochs see a picture alike, so that a model can't learn it by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# The largest turn, in degrees, and shift, as a part of half the width.
TURN, SHIFT = 10.0, 0.16
# How much larger and smaller the picture gets: photos are mostly looked into, shapes keep whole.
SCALES = {"photos": (0.6, 1.05), "shapes": (0.9, 1.1)}
BRIGHTNESS = 0.2


def augment(
    images: torch.Tensor, kind: str, mean: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Turn, scale and shift each image, float32 ``[N, 3, H, W]``, a little, each another way.

    "photos" are also mirrored and made brighter or darker; "shapes" (digits, letters, signs)
    are not, since a mirrored one is another one. ``mean`` is what black is, ``[3, 1, 1]``.
    """
    import torch
    from torch.nn import functional

    if kind == "none":
        return images
    count = len(images)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + torch.rand(count, generator=generator) * (high - low)

    angle, scale = uniform(-TURN, TURN).deg2rad(), uniform(*SCALES[kind])
    mirror = torch.ones(count)
    if kind == "photos":
        mirror = 1 - 2 * (uniform(0, 1) < 0.5).float()
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = [cosine * mirror, -sine, uniform(-SHIFT, SHIFT), sine * mirror, cosine]
    rows.append(uniform(-SHIFT, SHIFT))
    grid = functional.affine_grid(
        torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False
    )
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if kind == "photos":
        light = uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS).view(count, 1, 1, 1)
        moved = (moved - mean) * light + mean
    return moved
