"""What makes a quantized file slow or wrong on x86, as far as the file alone tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..judging.findings import Finding
from .quantized import DYNAMIC, QDQ, Quantization, quantization_of

SIGNED, UNSIGNED = "int8", "uint8"


def troubles(model: Any) -> Iterator[Finding]:
    """Findings about a quantized model; none about one that isn't."""
    return troubles_of(quantization_of(model))


def troubles_of(found: Quantization | None) -> Iterator[Finding]:
    """Findings about a model that is so quantized."""
    if found is not None:
        yield from _of_activations(found)
        yield from _of_weights(found)


def _of_activations(found: Quantization) -> Iterator[Finding]:
    signed = found.activations.get(SIGNED, 0)
    if found.style == DYNAMIC:
        text = (
            "activations are quantized while it runs: each run looks for their ranges first, and "
            "convolutions have few such kernels"
        )
        yield Finding("dynamic", text)
    elif signed:
        rewrite = "; import --repair rewrites it" if found.style == QDQ else ""
        text = (
            f"{signed} activations are int8: x86 kernels multiply uint8 by int8, and take half as "
            f"long{rewrite}"
        )
        yield Finding("signed-activations", text)


def _of_weights(found: Quantization) -> Iterator[Finding]:
    unsigned = found.weights.get(UNSIGNED, 0)
    if unsigned:
        text = f"{unsigned} weights are uint8: x86 kernels are fastest for int8 without zero point"
        yield Finding("unsigned-weights", text)
    elif found.zero_points:
        text = f"{found.zero_points} weights have a zero point: kernels subtract it in every sum"
        yield Finding("zero-points", text)
    if found.per_tensor:
        text = (
            f"{found.per_tensor} weights have one scale for all channels: small channels lose "
            "most of their bits"
        )
        yield Finding("per-tensor", text)
