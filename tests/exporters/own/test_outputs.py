"""Outputs are called by where they are in what a forward gives."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.own.outputs import flat, flatten

ONE, TWO, THREE = torch.ones(1), torch.ones(2), torch.ones(3)


class Found(NamedTuple):
    boxes: torch.Tensor
    scores: torch.Tensor


@dataclass
class Heads:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()
    loss: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (ONE, {"output": 1}),
        ([ONE, TWO], {"output0": 1, "output1": 2}),
        ({"a": ONE, "b": (TWO, {"c": THREE})}, {"a": 1, "b0": 2, "c": 3}),
        (OrderedDict(b=ONE, a=TWO), {"b": 1, "a": 2}),
        (Found(ONE, TWO), {"boxes": 1, "scores": 2}),
        (Heads(ONE, (TWO, THREE)), {"logits": 1, "hidden0": 2, "hidden1": 3}),
        ({4: Found(ONE, TWO)}, {"boxes": 1, "scores": 2}),
        # A head that is off.
        ((ONE, None), {"output0": 1}),
        ({"logits": ONE, "auxiliary": None}, {"logits": 1}),
        # Equal keys are told apart by the way to them.
        (
            {"p3": {"box": ONE, "score": TWO}, "p4": {"box": THREE}},
            {"p3_box": 1, "score": 2, "p4_box": 3},
        ),
        ([{"box": ONE}, {"box": TWO}], {"output0_box": 1, "output1_box": 2}),
        (({"a": ONE}, Found(TWO, THREE), {"a": TWO}), {"output0_a": 1, "output2_a": 2}),
    ],
)
def test_a_tensor_is_called_by_its_key_field_or_place(given: Any, names: dict[str, int]) -> None:
    found = {name: len(tensor) for name, tensor in flatten(given).items()}
    assert found.items() >= names.items()
    assert list(found) == [*names] or len(found) > len(names)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((ONE, 0.5), "gives float for output1, not a tensor"),
        ({"a": "text"}, "gives str for a, not a tensor"),
        ((None, []), "gives no tensor"),
        ({"a": {"b": ONE}, "a_b": ONE, "c": {"b": ONE}}, "two outputs are called a_b"),
    ],
)
def test_what_has_no_name_or_is_no_tensor_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        flatten(given)


def test_a_flat_module_gives_them_in_their_order() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"b": x, "a": (x + 1, None, x + 2)}

    outputs = flat(Net())(torch.zeros(1))
    assert [float(one) for one in outputs] == [0, 1, 2]
