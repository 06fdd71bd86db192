"""Modules after a quantization-aware training: fake quantization with its ranges fixed.

torch's own fake quantization goes on collecting ranges, decides at run time whether to, and runs
in float32 alone. Here each is replaced by one that does nothing but round. A convolution
that was trained with its batch normalization gets that folded into it, as ``convert`` would do:
between the two nodes no runner would take it for one of int8.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..base import ModelError
from ..onnx import quiet
from .rounding import Fixed, not_eight_bits, rounding

if TYPE_CHECKING:
    import torch


def holds(module: torch.nn.Module) -> bool:
    """Whether there is fake quantization in a module."""
    return any(_is_fake(part) for part in module.modules())


def only_observes(module: torch.nn.Module) -> bool:
    """Whether a module collects ranges, as after ``prepare``, and quantizes nothing."""
    return not holds(module) and any(_is_of(part, "ObserverBase") for part in module.modules())


def fix(module: torch.nn.Module) -> Fixed:
    """Fix the ranges, in ``module`` as well, whose answers would else change from run to run.

    Raises ``ModelError`` for fake quantization that ONNX has no QuantizeLinear for, that is off,
    or that has seen nothing to take a range from.
    """
    every: dict[str, Any] = {name: part for name, part in module.named_modules() if _is_fake(part)}
    for name, part in every.items():
        if problem := _problem(part):
            raise ModelError(f"the fake quantization {name or 'of it'} {problem}")
    on = {name: part for name, part in every.items() if bool(part.fake_quant_enabled[0])}
    if not on:
        raise ModelError(
            "its fake quantization is off: model.apply(torch.ao.quantization.enable_fake_quant), "
            "or export the float module"
        )
    collecting = [name for name, part in on.items() if bool(part.observer_enabled[0])]
    for part in every.values():
        part.observer_enabled[0] = 0
    notes = []
    if collecting:
        notes.append(
            f"{len(collecting)} observers still collect ranges: fixed as they are now "
            "(torch.ao.quantization.disable_observer)"
        )
    if off := len(every) - len(on):
        notes.append(f"{off} of {len(every)} fake quantizations are off: these stay in float")
    with quiet():
        copied = copy.deepcopy(module)
    return Fixed(_fixed(copied), tuple(notes))


def _fixed(module: torch.nn.Module) -> torch.nn.Module:
    module = _replaced(module, lambda part: _folded(part) if _has_batch_norm(part) else None)
    for part in list(module.modules()):
        _round_weight(part)
    return _replaced(module, lambda part: _rounding(part) if _is_fake(part) else None).eval()


def _problem(part: Any) -> str | None:
    """Why a fake quantization can't be written as QuantizeLinear."""
    if not _is_of(part, "FakeQuantizeBase") or not hasattr(part, "scale"):
        return f"is {type(part).__name__}, which edgepipe doesn't know"
    if type(part).__module__.startswith("torchao"):
        return "is torchao's, which convert_pt2e has to make a program of first: export that"
    if getattr(part, "is_dynamic", False):
        return "chooses its range at run time (dynamic): only fixed ranges can be exported"
    if part.zero_point.is_floating_point():
        return "has a zero point that is no integer, which ONNX has no QuantizeLinear for"
    if problem := not_eight_bits(*_limits(part)):
        return problem
    seen = getattr(part.activation_post_process, "min_val", None)
    fresh = seen is not None and (seen.numel() == 0 or bool(seen.isinf().any()))
    if fresh and bool((part.scale == 1).all()):
        return "has seen no data, so it has no range: train it, or load its weights first"
    return None


def _limits(part: Any) -> tuple[int, int]:
    observer = part.activation_post_process
    return int(observer.quant_min), int(observer.quant_max)


def _is_fake(part: torch.nn.Module) -> bool:
    return _is_of(part, "FakeQuantizeBase") or "FakeQuantize" in type(part).__name__


def _is_of(part: torch.nn.Module, base: str) -> bool:
    """By name: torch and torchao have classes of their own."""
    return any(kind.__name__ == base for kind in type(part).__mro__)


def _has_batch_norm(part: torch.nn.Module) -> bool:
    return _is_of(part, "_ConvBnNd") or _is_of(part, "LinearBn1d")


def _replaced(
    module: torch.nn.Module, other: Callable[[torch.nn.Module], torch.nn.Module | None]
) -> torch.nn.Module:
    """The module with some of its parts replaced, one that is there twice by the same."""
    made: dict[torch.nn.Module, torch.nn.Module | None] = {}
    for parent, name, part in list(_children(module)):
        if part not in made:
            made[part] = other(part)
        if new := made[part]:
            setattr(parent, name, new)
    return made.get(module) or other(module) or module


def _children(
    module: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Module]]:
    for parent in module.modules():
        for name, part in parent.named_children():
            yield parent, name, part


def _round_weight(part: Any) -> None:
    """Make a weight what its fake quantization gives: quantized again it stays the same.

    Else the last bit of a quotient could decide on a weight, and in each runtime otherwise.
    """
    import torch

    fake = getattr(part, "weight_fake_quant", None)
    if fake is None or not _is_fake(fake):
        return
    with torch.no_grad():
        part.weight = torch.nn.Parameter(fake(part.weight), requires_grad=False)
    part.weight_fake_quant = _rounding(fake, in_range=True)


def _folded(part: Any) -> torch.nn.Module:
    """A layer with the batch normalization behind it in its weight and bias.

    As PyTorch computes it in eval mode: the fake quantization is of the weight times
    ``gamma / sqrt(variance + eps)``.
    """
    import torch

    class Folded(torch.nn.Module):
        """Layer, and the ReLU that it was fused with."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = weight, bias
            self.weight_fake_quant = part.weight_fake_quant

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = compute(x, self.weight_fake_quant(self.weight), self.bias)
            return torch.nn.functional.relu(x) if relu else x

    norm, relu = part.bn, bool(getattr(part, "_FLOAT_RELU_MODULE", None))
    linear = isinstance(part, torch.nn.Linear)
    compute = torch.nn.functional.linear if linear else part._conv_forward
    with torch.no_grad():
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shape = (-1, *[1] * (part.weight.ndim - 1))
        before = torch.zeros_like(norm.bias) if part.bias is None else part.bias
        weight = torch.nn.Parameter(part.weight * factor.reshape(shape), requires_grad=False)
        shifted = norm.bias + (before - norm.running_mean) * factor
        bias = torch.nn.Parameter(shifted, requires_grad=False)
    folded = Folded()
    # What observes a layer's output is a child of the layer, called by a hook.
    if hasattr(part, "activation_post_process"):
        folded.activation_post_process = part.activation_post_process
    folded._forward_hooks = part._forward_hooks
    return folded


def _rounding(part: Any, in_range: bool = False) -> torch.nn.Module:
    """What does the rounding of a fake quantization, and nothing else; none of one that is off."""
    import torch

    if not bool(part.fake_quant_enabled[0]):
        return torch.nn.Identity()
    axis = int(part.ch_axis) if part.is_per_channel else None
    return rounding(part.scale, part.zero_point, _limits(part), axis, in_range)
