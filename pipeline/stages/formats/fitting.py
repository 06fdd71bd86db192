"""What fits into float16: 5 bits of exponent and 11 significant bits (IEEE 754-2019, binary16)."""

from __future__ import annotations

import numpy as np

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
# Inputs that nobody has seen yet reach further than those at hand.
HEADROOM = 2.0
# Of a constant's largest value. Rounding a normal number costs 2^-11 at most, 1e-5 ten times that.
MOST_ROUNDING = 2.0**-8


def as_half(values: np.ndarray) -> np.ndarray:
    """Rounded to float16; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def constant_misfit(values: np.ndarray, *, bound: bool = False) -> str | None:
    """Why a float32 constant can't be float16, ``None`` if it can.

    A ``bound`` is what activations are cut off at: one that is out of reach may be infinite.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    largest = float(np.max(np.abs(finite), initial=0.0))
    if largest > LARGEST:
        return None if bound else f"a constant of {largest:.3g}"
    lost = np.max(np.abs(finite - as_half(finite).astype(np.float64)), initial=0.0)
    return f"a constant of {largest:.3g}" if lost > MOST_ROUNDING * largest else None


def values_misfit(peak: float) -> str | None:
    """Why a tensor whose values come to ``peak`` can't be float16, ``None`` if it can."""
    if not np.isfinite(peak):
        return "values that are NaN or infinite"
    if peak > LARGEST / HEADROOM:
        return f"values of {peak:.3g}"
    return f"values of {peak:.3g} at most" if 0 < peak < SMALLEST_NORMAL else None
