"""The probe of a bundle: the float model up to its first layers, and the ranges they were seen in.

See ``runners.bundles.monitoring.probe`` for what runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....runners.bundles.monitoring.probe import outputs_of
from ...errors import UsageError
from ...quantization.histograms import Calibrated
from ...storage import onnx_models

FLOAT = "fp32.onnx"
UNCALIBRATED = "needs a model that was calibrated here, by `edgepipe export` or `import`"
# From here on the axes of a reduction are an input.
AXES_AS_INPUT = 18


def probe(
    folder: Path, calibrated: Calibrated, count: int
) -> tuple[bytes, dict[str, tuple[float, float]]]:
    """``probe.onnx`` of the first ``count`` layers, and the ranges of their outputs, in order.

    Layers are those whose outputs calibration has counted, in the order of the graph. Raises
    ``UsageError`` for a workspace that has none, or whose model is too large for one file.
    """
    path = folder / FLOAT
    if not path.is_file():
        raise UsageError(f"--probe: {folder} has no {FLOAT}, whose first layers it is")
    if onnx_models.is_large(path):
        raise UsageError(f"--probe: {path} is over 2 GiB, which no probe is made of")
    model = onnx_models.load(path)
    seen = calibrated.histograms
    made = [name for node in model.graph.node for name in node.output if name in seen][:count]
    if not made:
        raise UsageError(f"--probe: calibration has counted no layer of {path}")
    ranges = {name: (seen[name].low, seen[name].high) for name in made}
    return _cut(model, made).SerializeToString(deterministic=True), ranges


def _cut(model: Any, tensors: list[str]) -> Any:
    """The model up to some tensors; its outputs are their smallest and largest values, ``[N]``."""
    from onnx import TensorProto, helper, utils

    inputs = [taken.name for taken in model.graph.input]
    found = utils.Extractor(model).extract_model(inputs, tensors)
    shapes = {one.name: one.type.tensor_type.shape.dim for one in found.graph.output}
    batch = found.graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_value if batch.HasField("dim_value") else batch.dim_param or None]
    opset = next(one.version for one in found.opset_import if one.domain in ("", "ai.onnx"))
    del found.graph.output[:]
    for place, tensor in enumerate(tensors):
        axes = list(range(1, len(shapes[tensor])))
        for kind, name in zip(("ReduceMin", "ReduceMax"), outputs_of(place), strict=True):
            given = [tensor]
            more: dict[str, Any] = {"axes": axes}
            if opset >= AXES_AS_INPUT:
                constant = helper.make_tensor(f"{name}.axes", TensorProto.INT64, [len(axes)], axes)
                found.graph.initializer.append(constant)
                given, more = [tensor, constant.name], {}
            found.graph.node.append(helper.make_node(kind, given, [name], keepdims=0, **more))
            found.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return found
