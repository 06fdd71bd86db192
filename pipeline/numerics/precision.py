"""How near arithmetic of a kind can come to the exact one: what every limit starts from."""

from __future__ import annotations

# The rounding of float32, half a unit in the last of 24 bits: nothing that rounds is nearer.
FLOAT32_DB = 144.5
# Below this nothing is told by a distance to a float32 reference: 1 % of noise.
FLOAT_FLOOR_DB = 40.0


# Where float64 can't be had: below all that sound models were seen to have, 95 dB and more.
ASSUMED_DB = 90.0
# The variant that keeps float32: what others are held against.
EXACT = "fp32"
# Variants that somebody else quantized: the file as it is, and with what made it slow rewritten.
GIVEN, REPAIRED = "given", "repaired"
FOREIGN = (GIVEN, REPAIRED)
# The variant that keeps its numbers as float16, and how near it has to come: docs/parity.md.
HALF = "fp16"
MIN_HALF_DB = 45.0
# What is made of a float model.
VARIANTS = (EXACT, "int8", "int8-avx2", HALF)


def kind_of(variant: str, precision: str) -> str:
    """What decides the limits of a cell: how the variant keeps its numbers, else the precision."""
    if variant.startswith("int8") or variant in FOREIGN:
        return "int8"
    return "f16" if (variant, precision) == (HALF, "f32") else precision


def as_asked(variant: str, asked: str, used: str) -> bool:
    """Whether a cell was computed in the precision that was asked for, of float32 tensors.

    Tensors that are float16 in the file are computed as such where there are kernels for them,
    and widened where there are none. The limits are the same.
    """
    return used == asked or (variant == HALF and {used, asked} == {"f16", "f32"})


def float_limit(reference_sqnr_db: float, margin_db: float) -> float:
    """A limit for float32, so far below torch's own distance from float64, in dB.

    Finite whatever that distance is: a float32 that equals its float64 is taken to be as near as
    rounding allows, and no limit lies below the floor, where it would mean nothing.
    """
    return max(min(reference_sqnr_db, FLOAT32_DB) - margin_db, FLOAT_FLOOR_DB)
