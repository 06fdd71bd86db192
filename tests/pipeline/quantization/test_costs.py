"""What int8 costs layer by layer: the layer that was spoiled is the one that is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepipe.pipeline.numerics.metrics import sqnr_db
from edgepipe.pipeline.quantization import costs, ranges
from edgepipe.pipeline.quantization.draft import Draft
from edgepipe.pipeline.quantization.qdq import write

from .nets import Made, made, residual_net


@pytest.fixture(scope="module")
def net() -> Made:
    return made(residual_net("Clip"))


def plain(net: Made) -> Draft:
    return replace(net.draft, ranges=ranges.choose(net.data.calibrated, "min-max"))


def test_the_layer_with_the_coarsest_weights_costs_most(net: Made) -> None:
    exact = net.answers(net.draft.model)
    draft = replace(plain(net), bits={"project": 3})
    found = costs.of_weights(
        net.draft.model, write(draft), lambda model: float(sqnr_db(net.answers(model), exact))
    )
    assert set(found) == {"narrow", "expand", "depthwise", "project", "head", "fc"}
    assert min(found, key=lambda name: found[name] or np.inf) == "project"


@pytest.mark.parametrize("tensor", ["expand.act", "sum", "logits"])
def test_the_layer_whose_values_are_cut_costs_most(net: Made, tensor: str) -> None:
    exact = net.answers(net.draft.model)
    draft = plain(net)
    low, high = draft.ranges[tensor]
    draft = replace(draft, ranges={**draft.ranges, tensor: (low / 4, high / 4)})
    found = costs.of_values(
        net.draft.model, write(draft), lambda model: float(sqnr_db(net.answers(model), exact))
    )
    assert min(found, key=lambda name: found[name] or np.inf) == tensor
    assert len(found) >= 8


def test_what_nothing_was_done_to_costs_nothing(net: Made) -> None:
    """A layer's cost is its own: all else is in float while it is told."""
    exact = net.answers(net.draft.model)
    draft = replace(plain(net), bits={"project": 3})
    spoiled, whole = (
        costs.of_weights(
            net.draft.model, write(one), lambda model: float(sqnr_db(net.answers(model), exact))
        )
        for one in (draft, plain(net))
    )
    for name in set(whole) - {"project"}:
        assert spoiled[name] == whole[name]
