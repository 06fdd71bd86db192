"""From a runner's nodes to the file's layers: names, what lies between int8 layers, shares."""

from __future__ import annotations

import math

import pytest

from edgepipe.pipeline.profiling import layers, peak
from edgepipe.pipeline.profiling.profile_result import Peak
from edgepipe.pipeline.stages.graphs import Layer
from edgepipe.runners.base import NodeTime


def layer(tensor: str, *reads: str, macs: int = 0, parts: tuple[str, ...] = ()) -> Layer:
    known = frozenset({tensor, f"node_{tensor}", *parts})
    return Layer(f"features.{tensor}", "Conv", tensor, frozenset(reads), known, macs)


def node(
    name: str,
    us: float = 10.0,
    precision: str = "int8",
    operator: str = "Conv",
    originals: str = "",
) -> NodeTime:
    return NodeTime(name, operator, "", precision, "CPU", us, tuple(originals.split()))


CHAIN = (layer("a", macs=1000), layer("b", "a", macs=2000), layer("c", "b"), layer("d", "c"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", "a"),
        ("node_a", "a"),
        ("a_nchwc", "a"),
        ("node_a_token_17", "a"),
        ("a_nchwc_token_2", "a"),
        ("a_QuantizeLinear", "a"),
        ("node_a/WithoutBiases", "a"),
        ("node_a/WithoutBiases/DequantizationMultiply", "a"),
        ("a_QuantizeLinear_2", "a"),
        ("a_q", "a"),
        ("node_a/QuickGeluFusion/", "a"),
        ("Transpose_token_161", None),
        ("ReorderOutput", None),
        ("a_1", None),
    ],
)
def test_what_a_runner_puts_behind_a_name_is_taken_off(name: str, found: str | None) -> None:
    (named,) = layers.named([node(name)], CHAIN)
    assert (named.layer.tensor if named.layer else None) == found


def test_a_node_that_several_became_goes_with_what_computes_most() -> None:
    (named,) = layers.named([node("Subgraph_7", originals="node_c node_b node_d")], CHAIN)
    assert named.layer is CHAIN[1]


def test_layers_and_conversions_add_up_to_all_nodes() -> None:
    nodes = [
        node("input_reorder", 3, "f32", "Reorder"),
        node("a", 10, "f32"),
        node("a_QuantizeLinear", 4, "f32", "QuantizeLinear"),
        node("Transpose", 2, "int8", "Transpose"),
        node("b", 20),
        node("unknown", 7, "f32", "Mystery"),
    ]
    found = layers.by_layer(layers.named(nodes, CHAIN), CHAIN, 1)
    assert [one.layer for one in found] == ["features.a", "features.b", "unknown"]
    assert [one.conversion_us for one in found] == [9, 0, 0]
    assert sum(one.us + one.conversion_us for one in found) == sum(one.us for one in nodes)
    assert sum(one.share for one in found) == pytest.approx(1)


def between(*precisions: str) -> dict[str, float | None]:
    nodes = []
    for one, precision in zip(CHAIN, precisions, strict=True):
        nodes += [node(one.tensor, 10, precision)]
        nodes += [node(f"{one.tensor}_QuantizeLinear", 1, "f32", "QuantizeLinear")]
    found = layers.by_layer(layers.named(nodes, CHAIN), CHAIN, 1)
    return {one.layer[-1]: one.around_us for one in found if one.between_int8}


def test_a_float_layer_between_int8_ones_is_found_with_the_conversions_around_it() -> None:
    assert between("int8", "f32", "int8", "int8") == {"b": 2.0}
    assert between("int8", "f32", "bf16", "int8") == {"b": 2.0, "c": 2.0}


def test_the_first_and_the_last_layer_in_float_are_between_nothing() -> None:
    assert between("f32", "int8", "int8", "f32") == {}
    assert between("f32", "f32", "f32", "f32") == {}


def test_a_float_branch_beside_int8_layers_is_not_between_them() -> None:
    # "side" is executed between two int8 layers, but no int8 layer feeds it.
    graph = (layer("a"), layer("side"), layer("b", "a"), layer("sum", "b", "side"))
    kinds = {"a": "int8", "side": "f32", "b": "int8", "sum": "int8"}
    nodes = [node(name, 10, kind) for name, kind in kinds.items()]
    found = layers.by_layer(layers.named(nodes, graph), graph, 1)
    assert not any(one.between_int8 for one in found)


def test_a_layer_of_no_measurable_time_has_no_rate() -> None:
    nodes = [node("a", 0.0), node("b", 10.0)]
    found = layers.by_layer(layers.named(nodes, CHAIN), CHAIN, 1)
    assert found[0].gmacs_per_s is None
    empty = layers.by_layer(layers.named([node("a", 0.0)], CHAIN), CHAIN, 1)
    assert (empty[0].share, empty[0].gmacs_per_s) == (0.0, None)


def test_rates_are_for_all_images_of_a_run_and_held_against_their_own_precision() -> None:
    nodes = [node("a", 10, "f32"), node("b", 10, "int8")]
    found = layers.by_layer(layers.named(nodes, CHAIN), CHAIN, 4)
    assert [one.gmacs_per_s for one in found] == [4 * 1000 / 10 / 1e3, 4 * 2000 / 10 / 1e3]
    peaks = [Peak("f32", 0.8, None, None, "", "", 1), Peak("int8", 3.2, None, None, "", "", 1)]
    assert [one.peak_share for one in layers.against(found, peaks)] == [0.5, 0.25]
    assert [one.peak_share for one in layers.against(found, peaks[:1])] == [0.5, None]


@pytest.mark.parametrize(
    ("kernel", "unit"),
    [
        ("brgconv_avx512_amx_1x1_I8", "AMX"),
        ("brgemm_avx512_I8", "AVX-512"),
        ("brgconv_avx512_vnni_I8", "VNNI"),
        ("jit_avx2_f32", "AVX2"),
        ("gemm_mlas_f32", None),
        ("", None),
    ],
)
def test_a_kernels_name_tells_its_unit(kernel: str, unit: str | None) -> None:
    assert peak.kernel_unit(kernel) == unit


@pytest.mark.parametrize(
    ("precision", "flags", "unit"),
    [
        ("int8", {"avx2", "avx512f", "avx512_vnni", "amx_int8"}, "AMX"),
        ("int8", {"avx2", "avx512f", "avx512_vnni"}, "AVX-512 VNNI"),
        ("int8", {"avx2"}, "AVX2"),
        ("f32", {"avx2", "avx512f", "amx_int8"}, "AVX-512"),
        ("bf16", {"avx512f", "avx512_bf16"}, "AVX-512 BF16"),
        ("f32", set(), None),
    ],
)
def test_a_cpu_has_the_fastest_of_its_units(
    precision: str, flags: set[str], unit: str | None
) -> None:
    assert peak.cpu_unit(precision, flags) == unit


def test_products_count_as_the_textbook_does() -> None:
    from edgepipe.pipeline.profiling import gemm

    for int8 in (False, True):
        for product in gemm.gemms(2, int8=int8):
            (source,) = product.feeds.values()
            columns = round(math.sqrt(source.size))
            assert product.macs == columns**3
