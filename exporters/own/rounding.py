"""Rounding to the integers of a quantization and back, in the one form that exporters know.

They write it as QuantizeLinear and DequantizeLinear; in float64 it is computed as it is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

QDQ = "QDQ"
# What ONNX's QuantizeLinear saturates at, by whether integers are signed.
INT8, UINT8 = (-128, 127), (0, 255)
# Ranges that exporters write as they are; others are clamped before.
WRITTEN = (INT8, UINT8, (0, 127))


@dataclass(frozen=True)
class Fixed:
    """A module for the exporters, in eval mode, and what is to be known of it, a line each."""

    module: torch.nn.Module
    notes: tuple[str, ...] = ()


def not_eight_bits(low: int, high: int) -> str | None:
    """Why values of this range can't be exported, if so."""
    if any(least <= low and high <= most for least, most in (INT8, UINT8)):
        return None
    return f"has values from {low} to {high}: only 8 bits can be exported"


def rounding(
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    limits: tuple[int, int],
    axis: int | None = None,
    in_range: bool = False,
) -> torch.nn.Module:
    """A module that rounds ``x`` to ``(q - zero_point) * scale`` with q in ``limits``.

    ``scale`` and ``zero_point`` have one value, or one for each place along ``axis``. What it is
    for may be ``in_range`` already.
    """
    import torch

    _tell_shapes()
    low, high = limits
    scale, zero_point = scale.detach().float(), zero_point.detach().to(torch.int32)
    least, most = (low, high) if (low, high) in WRITTEN else UINT8 if low >= 0 else INT8
    clamps = (least, most) != (low, high) and not in_range
    # Numbers, as exporters have constants for them.
    step, zero = (float(scale), int(zero_point)) if axis is None else (0.0, 0)

    class Rounding(torch.nn.Module):
        """Quantizes and dequantizes with fixed ranges."""

        scale: torch.Tensor
        zero_point: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", scale)
            self.register_buffer("zero_point", zero_point)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float64:
                return self._exactly(x)
            if axis is None:
                if clamps:
                    x = torch.clamp(x, (low - zero) * step, (high - zero) * step)
                return torch.fake_quantize_per_tensor_affine(x, step, zero, least, most)
            if clamps:
                scales, zeros = self._along(x)
                x = torch.clamp(x, (low - zeros) * scales, (high - zeros) * scales)
            return torch.fake_quantize_per_channel_affine(
                x, self.scale, self.zero_point, axis, least, most
            )

        def _exactly(self, x: torch.Tensor) -> torch.Tensor:
            scales, zeros = self._along(x)
            return (torch.clamp(torch.round(x / scales) + zeros, low, high) - zeros) * scales

        def _along(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Scale and zero point as they are to be multiplied."""
            if axis is None:
                return self.scale.to(x.dtype), self.zero_point
            shape = [1] * x.ndim
            shape[axis] = -1
            return self.scale.to(x.dtype).reshape(shape), self.zero_point.reshape(shape)

    return Rounding()


@cache
def _tell_shapes() -> Any:
    """Tell torch.export which shapes fake quantization gives; torch knows with a fixed batch alone.

    Returns what keeps it known, if torch did not know it.
    """
    import torch

    def same(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)

    library = torch.library.Library("aten", "IMPL", "Meta")
    for kind in ("tensor", "channel"):
        name = f"fake_quantize_per_{kind}_affine_cachemask"
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            library.impl(name, same)
    return library
