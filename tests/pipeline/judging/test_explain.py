"""parity --explain on the default workspace. tests/mutants holds what it finds in broken models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepipe.pipeline.judging import findings
from edgepipe.pipeline.judging.explanation import LayerError
from edgepipe.pipeline.numerics import metrics
from edgepipe.pipeline.stages.graphs import FED, LayerGraph

Run = Callable[..., CompletedProcess[str]]


@pytest.mark.long
def test_an_int8_cell_is_explained(workspace: Path, edgepipe: Run) -> None:
    flags = ("--variant", "int8-avx2", "--runner", "openvino", "--samples", "16", "--json")
    done = edgepipe("parity", "--explain", *flags, "--workspace", workspace)
    assert done.returncode == 0, done.stderr
    (explanation,) = json.loads(done.stdout)["explanations"]
    steps = {step["name"]: step for step in explanation["steps"]}
    assert list(steps) == ["exported", "simplified", "quantized", "runner"]
    assert steps["exported"]["sqnr_db"] > 90 > steps["quantized"]["sqnr_db"] > 15
    assert explanation["step"] in ("quantized", "runner")
    assert len(explanation["layers"]) == 64
    own = [layer["own_sqnr_db"] for layer in explanation["layers"] if layer["state"] == "measured"]
    assert own == sorted(own), "the worst first"
    assert explanation["layer"] == explanation["layers"][0]["layer"]
    folder = workspace / "mobilenet_v2"
    kept = json.loads((folder / "explain.json").read_text())
    assert kept["cells"] == [explanation]
    drawn = ElementTree.parse(folder / "explain.svg").getroot()
    texts = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {"features.5.conv.0.0", "SQNR, dB"} <= texts
    assert edgepipe("export", "--workspace", workspace).returncode == 0, "results are no strangers"


def test_the_terminal_says_step_and_layer(workspace: Path, edgepipe: Run) -> None:
    flags = ("--variant", "fp32", "--runner", "ort-cpu", "--samples", "16")
    done = edgepipe("parity", "--explain", *flags, "--workspace", workspace)
    assert done.returncode == 0
    assert "fp32 / ort-cpu passes; most of the error comes from step" in done.stdout
    assert "features." in done.stdout


def test_explaining_and_running_nothing_exclude_each_other(edgepipe: Run) -> None:
    done = edgepipe("parity", "--explain", "--from", "parity.npz")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--explain" in done.stderr


def test_a_layer_apart_does_not_see_the_error_before_it(exported: Path) -> None:
    import onnxruntime

    graph = LayerGraph(exported / "mobilenet_v2" / "int8.onnx")
    shapes = {"hardtanh": (1, 32, 112, 112), "hardtanh_1": (1, 32, 112, 112)}
    apart = graph.apart(shapes)
    session = onnxruntime.InferenceSession(
        apart.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert {node.name for node in session.get_inputs()} == {"input", FED + "hardtanh"}
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    outputs = []
    for factor in (1, 5):
        feeds = {"input": factor * image, FED + "hardtanh": np.full(shapes["hardtanh"], 0.5, "f")}
        outputs.append(session.run([apart.names["hardtanh_1"]], feeds)[0])
    assert np.array_equal(*outputs)


def test_noise_over_batches_is_that_over_all() -> None:
    random = np.random.default_rng(1)
    reference, outputs = random.standard_normal((2, 6, 4))
    noise = metrics.Noise()
    noise.add(outputs[:2], reference[:2])
    noise.add(outputs[2:], reference[2:])
    assert noise.sqnr_db == pytest.approx(metrics.sqnr_db(outputs, reference))
    noise.add(outputs[:1] * np.nan, reference[:1])
    assert noise.sqnr_db == -np.inf


def test_noise_against_what_is_not_finite_is_no_nan() -> None:
    noise = metrics.Noise()
    noise.add(np.ones((2, 3)), np.full((2, 3), np.nan))
    noise.add(np.ones((2, 3)), np.ones((2, 3)))
    assert noise.sqnr_db == -np.inf


def test_layers_come_worst_first_and_those_that_were_not_measured_last() -> None:
    figures = [50.0, None, 10.0, np.inf, None, -np.inf, 5.0]
    layers = [LayerError(str(n), "Conv", str(n), figure, None) for n, figure in enumerate(figures)]
    ordered = sorted(layers, key=lambda layer: layer.rank)
    assert [layer.sqnr_db for layer in ordered] == [-np.inf, 5.0, 10.0, 50.0, np.inf, None, None]
    states = ["broken", "measured", "measured", "measured", "equal", "not measured", "not measured"]
    assert [layer.state for layer in ordered] == states


def quantized_chain(*operators: str) -> onnx.GraphProto:
    """Input -> Q -> DQ -> operators, each between Q and DQ, in float."""
    nodes, tensor = [], "x"
    for number, operator in enumerate([*operators, None]):
        nodes.append(helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"q{number}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{number}", "s", "z"], [f"d{number}"]))
        tensor = f"d{number}"
        if operator:
            nodes.append(helper.make_node(operator, [tensor], [f"y{number}"], name=f"op{number}"))
            tensor = f"y{number}"
    for number, node in enumerate(nodes):
        node.name = node.name or f"node{number}"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", tensor)]
    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(3, np.uint8), "z"),
    ]
    return helper.make_graph(nodes, "chain", value[:1], value[1:], constants)


def test_float_islands_and_unfused_pairs_are_found() -> None:
    found = {one.kind: one for one in findings.of_kernels(quantized_chain("Exp", "Erf"))}
    assert found["float-island"].layers == ("op0", "op1")
    assert found["float-island"].text.startswith("float islands between int8 nodes: 2")
    assert len(found["unfused"].layers) == 3


def test_the_shipped_model_has_no_pair_left_over(exported: Path) -> None:
    from edgepipe.pipeline.stages.graphs import optimized

    found = findings.of_kernels(optimized(exported / "mobilenet_v2" / "int8.onnx"))
    assert [one.kind for one in found] == ["float-island"]
    assert "ReduceMean" in found[0].text


@pytest.mark.parametrize(
    ("machine", "flags", "variant", "expected"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], "int8", None),
        ("x86_64", ["avx2", "avx_vnni"], "int8", None),
        ("x86_64", ["avx2"], "int8", "sums can leave 16 bits"),
        ("x86_64", ["avx2"], "int8-avx2", "no sum can leave 16 bits"),
        ("aarch64", [], "int8", None),
        (None, [], "int8", None),  # of a cell that failed nothing is known
    ],
)
def test_a_cpu_without_vnni_is_named(
    exported: Path, machine: str | None, flags: list[str], variant: str, expected: str | None
) -> None:
    facts = {"machine": machine, "cpu_flags": flags}
    found = findings.of_cpu(exported / "mobilenet_v2" / f"{variant}.onnx", facts)
    assert [one.kind for one in found] == (["no-vnni"] if expected else [])
    assert not expected or expected in found[0].text


def test_values_outside_their_range_are_named_worst_first() -> None:
    (found,) = findings.of_ranges({"a": 0.0, "b": 0.02, "c": 0.2})
    assert found.layers == ("c", "b")
    assert "c 20.0%, b 2.0%" in found.text
    assert findings.of_ranges({"a": 0.0001}) == []
