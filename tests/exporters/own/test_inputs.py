"""Inputs find the arguments of a forward that they are for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.own.inputs import bound


class Optional(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        x = x if mask is None else x * mask
        return x if scale is None else x + scale


class Batch(nn.Module):
    def forward(self, batch: dict[str, Tensor], *, bias: Tensor) -> Tensor:
        return batch["x"] - batch["y"] + bias


class Places(nn.Module):
    def forward(self, *tensors: Tensor) -> Tensor:
        return tensors[0] - tensors[1]


def answer(module: nn.Module, *names: str) -> float:
    """What it gives for 3, 5, 7 in the order of the names."""
    tensors = [torch.tensor([value]) for value in (3.0, 5.0, 7.0)]
    return float(bound(module, names)(*tensors[: len(names)]))


@pytest.mark.parametrize(
    ("module", "names", "value"),
    [
        (Optional(), ("x",), 3),
        (Optional(), ("x", "mask"), 15),
        (Optional(), ("x", "scale"), 8),
        (Optional(), ("scale", "x"), 8),
        (Optional(), ("scale", "mask", "x"), 38),
        # Names of no argument go by their places.
        (Optional(), ("picture", "shown"), 15),
        (Optional(), ("x", "shown"), 15),
        (Batch(), ("batch.x", "batch.y", "bias"), 5),
        (Batch(), ("bias", "batch.y", "batch.x"), 5),
        (Places(), ("a", "b"), -2),
    ],
)
def test_an_input_goes_to_the_argument_of_its_name(
    module: nn.Module, names: tuple[str, ...], value: float
) -> None:
    assert answer(module, *names) == value


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Optional(), ("mask", "picture")),
        (Optional(), ("picture", "x")),
        (Batch(), ("other.x", "bias")),
        (Batch(), ("batch", "batch.x", "bias")),
    ],
)
def test_what_can_not_be_told_is_refused(module: nn.Module, names: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=rf"^inputs {names[0]}, .*: forward takes \w+, \w+"):
        bound(module, names)


def test_in_order_a_module_stays_as_it_is() -> None:
    """Its graph, too, and so the bytes of what is exported."""
    module: Any = Optional()
    assert bound(module, ("x", "mask")) is module
