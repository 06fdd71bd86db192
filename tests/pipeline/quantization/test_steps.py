"""What each step of a recipe does to a model, and that it does nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from edgepipe.pipeline.numerics.metrics import sqnr_db
from edgepipe.pipeline.quantization import recipes
from edgepipe.pipeline.quantization.draft import Draft
from edgepipe.pipeline.quantization.qdq import QdqGraph, worst_of_layers, write
from edgepipe.pipeline.quantization.scales import MOST_OF_A_PAIR
from edgepipe.pipeline.quantization.steps.bias import float_means
from edgepipe.pipeline.quantization.units import Walk

from .nets import Made, made, residual_net


def by(net: Made, recipe: str) -> Draft:
    *_, (_, draft) = recipes.drafts(net.draft, net.data, recipes.steps_of(recipe))
    return draft


def nearness(net: Made, recipe: str) -> float:
    return float(sqnr_db(net.answers(write(by(net, recipe))), net.answers(net.draft.model)))


@pytest.fixture(scope="module")
def net() -> Made:
    return made(residual_net("Clip"))


def test_the_same_recipe_gives_the_same_file_to_the_last_byte(net: Made) -> None:
    recipe = "least-squares,rounding,bias-correction"
    first, second = (write(by(net, recipe)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_step_leaves_what_it_was_given_as_it_was(net: Made) -> None:
    before = net.draft.model.SerializeToString(deterministic=True)
    by(net, "equalization,least-squares,rounding,bias-correction")
    assert net.draft.model.SerializeToString(deterministic=True) == before


def means_apart(net: Made, recipe: str) -> float:
    """How far the channels' means are from the float model's, in their standard deviation."""
    draft = by(net, recipe)
    graph = QdqGraph(write(draft))
    nodes = {name: layer.node.output[0] for name, layer in graph.layers.items()}
    floats = {
        node.name: node.output[0] for node in net.draft.model.graph.node if node.name in nodes
    }
    wanted = float_means(net.draft.model, floats, net.data.samples)
    walk = Walk(graph.model, net.data.samples)
    apart = []
    for unit in walk.units:
        for node in unit.nodes:
            if node.name in wanted:
                found = walk.means(unit, node.output[0])
                apart.append(np.abs(found - wanted[node.name]).max() / wanted[node.name].std())
        walk.run(unit)
    assert len(apart) == len(nodes) >= 5
    return float(max(apart))


def test_bias_correction_gives_every_channel_the_mean_it_has_in_float(net: Made) -> None:
    assert means_apart(net, "min-max") > 0.01
    assert means_apart(net, "min-max,bias-correction") < 0.001


@pytest.mark.parametrize("seed", range(3))
def test_bias_correction_brings_answers_nearer(seed: int) -> None:
    net = made(residual_net("Clip", seed))
    assert nearness(net, "min-max,bias-correction") > nearness(net, "min-max") + 0.5


@pytest.mark.parametrize("exact_pairs", [False, True])
def test_rounding_lowers_what_weights_cost(exact_pairs: bool) -> None:
    net = made(residual_net("Clip", channels=24), exact_pairs=exact_pairs)
    plain, rounded = (by(net, recipe) for recipe in ("min-max", "min-max,rounding-all"))

    def costs(draft: Draft) -> float:
        graph = QdqGraph(write(draft))
        float_weights = {}
        for one in net.draft.weighted():
            if layer := graph.layers.get(one.node.name):
                along = [1] * one.weights.ndim
                along[one.axis] = -1
                values = graph.weights_of(layer) * layer.weight_scale.reshape(along)
                float_weights[one.node.input[1]] = values
        model = net.draft.with_constants(float_weights).model
        # Means aside, which biases take care of.
        off = net.answers(model) - net.answers(net.draft.model)
        return float(np.var(off - off.mean(0)))

    assert costs(rounded) < 0.8 * costs(plain)
    worst = max(worst_of_layers(write(rounded)).values())
    assert (worst <= MOST_OF_A_PAIR) == exact_pairs


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_equalization_leaves_the_float_function_as_it_was(activation: str) -> None:
    net = made(residual_net(activation))
    equal = recipes.get("equalization").apply(net.draft, net.data)
    assert sqnr_db(net.answers(equal.model), net.answers(net.draft.model)) > 100
    moved = {
        tensor.name
        for tensor, old in zip(
            equal.model.graph.initializer, net.draft.model.graph.initializer, strict=True
        )
        if not np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(old))
    }
    # Through ReLU6 no channel may be scaled: what it would scale stays.
    inside = {"expand.bias", "depthwise.bias"}
    assert {"narrow.weight", "project.bias"} <= moved
    assert (inside <= moved) == (activation == "Relu")


def test_equalization_helps_channels_of_very_different_size() -> None:
    net = made(residual_net("Relu", spread=2.0))
    assert nearness(net, "equalization,min-max") > nearness(net, "min-max") + 3


def test_every_range_method_makes_a_model_that_runs(net: Made) -> None:
    found = {method: nearness(net, method) for method in ("min-max", "percentile", "least-squares")}
    assert min(found.values()) > 20


def test_what_kernels_without_vnni_add_up_is_within_16_bits_if_asked_for() -> None:
    plain, exact = (
        by(made(residual_net("Clip"), exact_pairs=asked), "min-max,bias-correction")
        for asked in (False, True)
    )
    assert max(worst_of_layers(write(plain)).values()) > MOST_OF_A_PAIR
    assert max(worst_of_layers(write(exact)).values()) <= MOST_OF_A_PAIR
    assert "depthwise" not in worst_of_layers(write(exact))
