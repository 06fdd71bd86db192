"""How a file is quantized, read from its graph: in which form, with which types, how finely.

And what of that makes it slow or wrong on x86, as far as the file alone tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..judging.findings import Finding
from ..quantization.qdq import DEQUANTIZE, QUANTIZE
from ..storage.onnx_models import constants
from .onnx_file import dtype_of, nodes

QDQ, QOPERATOR, DYNAMIC, WEIGHTS = "QDQ", "QOperator", "dynamic", "weights only"
# Operators whose values are integers: ONNX's own, and those of ONNX Runtime.
INTEGER_OPERATORS = {"ConvInteger", "MatMulInteger", "MatMulNBits", "GatherBlockQuantized"}
INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "QEmbed", "QMoE")
DYNAMIC_OPERATORS = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
SIGNED, UNSIGNED = "int8", "uint8"


@dataclass(frozen=True)
class Quantization:
    """``style`` is "QDQ", "QOperator", "dynamic" or "weights only".

    ``activations`` and ``weights`` count tensors by their type, ``per_channel`` and ``per_tensor``
    the weights by how many scales they have. ``zero_points`` counts weights that have another
    zero point than 0.
    """

    style: str
    activations: Mapping[str, int]
    weights: Mapping[str, int]
    per_channel: int
    per_tensor: int
    zero_points: int

    def __str__(self) -> str:
        parts = [self.style]
        for what, counts in (("activations", self.activations), ("weights", self.weights)):
            if counts:
                listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
                parts.append(f"{what} {listed}")
        if self.per_channel or self.per_tensor:
            parts.append(f"{self.per_channel} per channel, {self.per_tensor} per tensor")
        return "; ".join(parts)


def quantization_of(model: Any) -> Quantization | None:
    """How a model is quantized, ``None`` for one that isn't."""
    every = list(nodes(model.graph))
    kinds = {node.op_type for node in every}
    known = {tensor.name: tensor for tensor in constants(model.graph)}
    pairs = [node for node in every if node.op_type == DEQUANTIZE]
    if kinds & DYNAMIC_OPERATORS:
        style = DYNAMIC
    elif any(kind.startswith(INTEGER_PREFIXES) for kind in kinds):
        style = QOPERATOR
    elif QUANTIZE in kinds:
        style = QDQ
    elif pairs or kinds & INTEGER_OPERATORS:
        style = WEIGHTS
    else:
        return None
    activations, weights = Counter[str](), Counter[str]()
    finely = Counter[bool]()
    shifted = 0
    for tensor, scale, zero in _quantized_tensors(every):
        if tensor not in known:
            activations[_type_of(zero, known)] += 1
            continue
        constant = known[tensor]
        if len(constant.dims) < 2:  # biases
            continue
        weights[dtype_of(constant.data_type)] += 1
        of_scale = known.get(scale)
        finely[of_scale is not None and max(of_scale.dims, default=1) > 1] += 1
        shifted += _is_shifted(known.get(zero))
    return Quantization(style, activations, weights, finely[True], finely[False], shifted)


def _quantized_tensors(every: list[Any]) -> list[tuple[str, str, str]]:
    """Each quantized tensor once, with the names of its scale and its zero point."""
    found: dict[str, tuple[str, str, str]] = {}

    def note(names: list[str]) -> None:
        tensor, scale, zero = (*names, "")[:3]
        if tensor:
            found.setdefault(tensor, (tensor, scale, zero))

    for node in every:
        names = list(node.input)
        if node.op_type == DEQUANTIZE:
            note(names)
        elif node.op_type.startswith(("QLinearConv", "QLinearMatMul", "QGemm")):
            note(names[:3])
            note(names[3:6])
    return list(found.values())


def _type_of(zero: str, known: Mapping[str, Any]) -> str:
    """The type of a quantized tensor: that of its zero point, uint8 where it has none."""
    return dtype_of(known[zero].data_type) if zero in known else "uint8"


def _is_shifted(zero: Any) -> bool:
    from onnx import numpy_helper

    return zero is not None and bool(numpy_helper.to_array(zero).any())


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
