"""Preprocessing as the first nodes of the model, so that a device feeds frames as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def fold(
    module: torch.nn.Module, mean: Sequence[float], std: Sequence[float], reverse: bool
) -> torch.nn.Module:
    """The module behind its normalization: uint8 ``[N, H, W, C]`` in, its own outputs out.

    ``mean`` and ``std`` have a value for each of the C channels. Computes
    ``(x / 255 - mean) / std`` in float32 as ``x * scale + shift``; ``reverse`` takes
    the channels the other way round first. The pixels become floats before anything else, since
    not every runner moves bytes about.
    """
    import torch

    deviation = torch.tensor(std, dtype=torch.float64)
    scale = (1 / (255 * deviation)).float().reshape(1, -1, 1, 1)
    shift = (-torch.tensor(mean, dtype=torch.float64) / deviation).float().reshape(1, -1, 1, 1)

    class Folded(torch.nn.Module):
        """Normalization and layout, then the module."""

        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", scale)
            self.register_buffer("shift", shift)
            self.module = module

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = pixels.to(self.scale.dtype).permute(0, 3, 1, 2)
            return self.module((x.flip(1) if reverse else x) * self.scale + self.shift)

    return Folded().eval()
