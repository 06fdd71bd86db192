"""Programs with torchao's quantization in them, as ``convert_pt2e`` leaves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operators)

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.own import decomposed, fake_quantization

quantized: Any = torch.ops.quantized_decomposed
UNSIGNED, SIGNED = (0, 255, torch.uint8), (-128, 127, torch.int8)


class Net(nn.Module):
    """A linear layer of int8 weights per channel between two roundings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("integers", torch.randint(-128, 128, (5, 8), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(5) / 100)
        self.register_buffer("zeros", torch.zeros(5, dtype=torch.int64))
        self.unread = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = quantized.quantize_per_tensor(x, 0.02, 121, *UNSIGNED)
        x = quantized.dequantize_per_tensor(x, 0.02, 121, *UNSIGNED)
        weight = quantized.dequantize_per_channel(
            self.integers, self.scales, self.zeros, 0, *SIGNED
        )
        x = nn.functional.linear(x, weight)
        x = quantized.quantize_per_tensor(x, 0.03, 0, 0, 127, torch.uint8)
        return quantized.dequantize_per_tensor(x, 0.03, 0, 0, 127, torch.uint8)


class Integers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = quantized.quantize_per_tensor(x, 0.02, 0, *SIGNED)
        return quantized.dequantize_per_tensor(torch.neg(x), 0.02, 0, *SIGNED)


class AtRunTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scale, zero = x.abs().max() / 127, torch.zeros(1, dtype=torch.int64)
        x = quantized.quantize_per_tensor.tensor(x, scale, zero, *SIGNED)
        return quantized.dequantize_per_tensor.tensor(x, scale, zero, *SIGNED)


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        wide = (-32768, 32767, torch.int16)
        x = quantized.quantize_per_tensor(x, 0.02, 0, *wide)
        return quantized.dequantize_per_tensor(x, 0.02, 0, *wide)


def program(module: nn.Module) -> Any:
    return torch.export.export(module.eval(), (torch.randn(4, 8),)).module()


@torch.no_grad()
def test_a_program_gives_the_same_answers_in_both_precisions() -> None:
    made, x = program(Net()), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert decomposed.holds(made)
    assert not fake_quantization.holds(made)
    fixed = decomposed.fix(made).module
    assert not decomposed.holds(fixed)
    torch.testing.assert_close(fixed(x), made(x))
    exact = fixed.double()(x.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), made(x))


def test_only_what_is_read_stays() -> None:
    made = program(Net())
    fixed = decomposed.fix(made).module
    assert [tuple(one.shape) for one in fixed.parameters()] == [(5, 8)]
    # What was given is as it was.
    assert decomposed.holds(made)
    assert "integers" in made.state_dict()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Integers(), "neg computes with integers"),
        (AtRunTime(), "a range that is found at run time"),
        (Wide(), "has values from -32768 to 32767: only 8 bits"),
    ],
)
def test_what_has_no_such_form_is_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        decomposed.fix(program(module))


def test_other_modules_hold_none() -> None:
    assert not decomposed.holds(nn.Linear(2, 2))
    assert not decomposed.holds(program(nn.Linear(8, 2)))
