"""Parts of a graph as ONNX Runtime sessions: what calibration and correction look at.

For the worker that quantizes: sessions are made in the process that calls this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..storage import onnx_models
from ..storage.onnx_models import copy_of
from .draft import HARD_SIGMOID, HARD_SWISH, line_of

# The oldest version of the file format that has all the operator sets that exporters write.
IR_VERSION = 10
CLIPS = ("Clip", "Relu")
# Where ONNX Runtime looks for the tensors of a model that it reads from memory.
FOLDER = "session.model_external_initializers_file_folder_path"


def session(model: Any, *, optimize: bool = True) -> Any:
    """A session of a model in memory that leaves the cores alone between runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data, folder = onnx_models.beside_of(model)
    if folder:
        options.add_session_config_entry(FOLDER, str(folder))
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def with_outputs(model: Any, names: Iterable[str]) -> Any:
    """A copy whose outputs are these tensors, as float32 of unknown shape."""
    from onnx import TensorProto, helper

    copy = copy_of(model)
    del copy.graph.output[:]
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return copy


def with_means(model: Any, names: Iterable[str]) -> Any:
    """A copy whose outputs are the means of some tensors' channels: "mean/TENSOR", see ``mean_of``.

    Of operators that every set since 5 has alike.
    """
    from onnx import TensorProto, helper

    copy = with_outputs(model, ())
    for name in names:
        # [N, C, H, W] and [N, C] alike: flattened behind the channels, then averaged there.
        flat, mean = f"mean/flat/{name}", f"mean/{name}"
        copy.graph.node.append(helper.make_node("Reshape", [name, "mean/shape"], [flat]))
        copy.graph.node.append(helper.make_node("GlobalAveragePool", [flat], [mean]))
        copy.graph.output.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, None))
    shape = helper.make_tensor("mean/shape", TensorProto.INT64, [3], [0, 0, -1])
    copy.graph.initializer.append(shape)
    return copy


def mean_of(output: np.ndarray) -> np.ndarray:
    """The mean of each channel over a run's rows, float64 ``[C]``."""
    return output[..., 0].mean(0, dtype=np.float64)


def tensors(model: Any) -> list[str]:
    """The float tensors whose ranges a quantizer may ask for, in the order of the graph.

    What goes into an activation that clips, and nowhere else, isn't one: see ``before_clips``.
    """
    from onnx import TensorProto, shape_inference
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    graph = shape_inference.infer_shapes(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    known = {
        value.name
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    left_out = constants | set(before_clips(model))
    operators = {*QLinearOpsRegistry, *QDQRegistry}
    found: dict[str, None] = {}
    for node in graph.node:
        if node.op_type in operators:
            for name in (*node.input, *node.output):
                if name in known and name not in left_out:
                    found[name] = None
    return list(found)


def all_tensors(model: Any) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """What computes, of feeds, all ``tensors`` of a model that aren't inputs, float32 by name.

    Values that their only reader doesn't tell apart are at the end of those that it does.
    """
    inputs = {value.name for value in model.graph.input}
    names = [name for name in tensors(model) if name not in inputs]
    made = session(with_outputs(model, names)) if names else None
    ends = told_apart(model)

    def compute(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = made.run(names, dict(feeds)) if made else []
        return {
            name: np.clip(array, *ends[name]) if name in ends else array
            for name, array in zip(names, values, strict=True)
        }

    return compute


def told_apart(model: Any) -> dict[str, tuple[float, float]]:
    """Between which values a tensor matters whose only reader is flat beyond: hard activations.

    HardSwish is zero below -3, HardSigmoid is zero or one where its line has left them.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    uses = Counter(name for node in graph.node for name in node.input)
    found: dict[str, tuple[float, float]] = {}
    for node in graph.node:
        if not node.input or uses[node.input[0]] > 1 or node.input[0] in outputs:
            continue
        if node.op_type == HARD_SWISH:
            found[node.input[0]] = (-3.0, np.inf)
        elif node.op_type == HARD_SIGMOID:
            alpha, beta = line_of(node)
            found[node.input[0]] = (-beta / alpha, (1 - beta) / alpha)
    return found


def before_clips(model: Any) -> dict[str, str]:
    """Tensors that only an activation reads which the quantized range makes up for, with its own.

    The two become one operator in int8, whose range is the activation's.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    uses = Counter(name for node in graph.node for name in node.input)
    made = {name for node in graph.node for name in node.output}
    return {
        node.input[0]: node.output[0]
        for node in graph.node
        if node.op_type in CLIPS and uses[node.input[0]] == 1 and node.input[0] in made - outputs
    }
