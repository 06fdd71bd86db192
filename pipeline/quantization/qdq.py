"""A draft written as an int8 model in QDQ form, and an int8 model read back.

ONNX Runtime's quantizer decides which tensors get a QuantizeLinear and which operators share a
scale; the weights' scales, and what a step decides about them, are ours.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..storage import onnx_models
from ..storage.onnx_models import copy_of
from .draft import BIAS, WEIGHT, Draft, Weighted, weighted
from .scales import quantized, scales, worst_pairs
from .sessions import before_clips

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# How ONNX Runtime's quantizer renames what a layer gives.
OUTPUT_SUFFIX = "_QuantizeLinear_Input"
INT32 = np.iinfo(np.int32)
# See ``_frame``: as serialized models, the latest ones.
MOST_FRAMES = 4
_FRAMES: dict[bytes, bytes] = {}


def write(draft: Draft) -> Any:
    """The draft as an ONNX model with uint8 activations and int8 weights per output channel."""
    if draft.written is not None:
        return draft.written
    graph = QdqGraph(_frame(draft))
    biases, large = draft.biases(), set(_large(draft))
    for one in draft.weighted():
        layer = graph.layers.get(one.node.name)
        if layer is None or len(layer.weight_scale) != one.weights.shape[one.axis]:
            continue
        large.discard(one.node.input[WEIGHT])
        bias = biases.get(one.node.name)
        if one.node.name in draft.weights:
            graph.set_weights(layer, *draft.weights[one.node.name])
        else:
            scale = scales(one, draft.bits.get(one.node.name, 8), draft.exact_pairs)
            if bias is not None:
                # A bias that its int32 can't hold: larger steps, so that it can.
                least = np.abs(bias.astype(np.float64)) / (INT32.max * layer.input_scale)
                scale = np.maximum(scale, (1.0001 * least).astype(np.float32))
            graph.set_weights(layer, quantized(one, scale), scale)
        if bias is not None:
            graph.set_bias(layer, bias)
    if large:
        raise ValueError(f"{min(large)} can't be quantized in a model of over 2 GiB")
    return graph.model


@dataclass(frozen=True)
class Layer:
    """A quantized node with weights: the names of its constants, and the scales it has."""

    node: Any
    weight: str
    weight_scale_name: str
    bias: str
    bias_scale_name: str
    input_scale: float
    weight_scale: np.ndarray


class QdqGraph:
    """An int8 model whose quantized layers go by the names of their nodes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self.layers: Mapping[str, Layer] = {
            layer.node.name: layer for layer in map(self._layer, model.graph.node) if layer
        }

    def constant(self, name: str) -> np.ndarray:
        """The value of a constant."""
        return onnx_models.values(self._constants[name])

    def weights_of(self, layer: Layer) -> np.ndarray:
        """A layer's int8 weights."""
        return self.constant(layer.weight)

    def dequantized_by(self, tensor: str) -> str:
        """The quantized tensor that a DequantizeLinear makes a tensor of."""
        return self._producers[tensor].input[0]

    def zero_point(self, layer: Layer) -> int:
        """That of a layer's input."""
        dequantizes = self._producers[layer.node.input[0]]
        return self.constant(dequantizes.input[2]).item() if len(dequantizes.input) > 2 else 0

    def set_weights(self, layer: Layer, weights: np.ndarray, scale: np.ndarray) -> None:
        """Other int8 weights, with their scales; the bias has to be set behind that."""
        self._set(layer.weight, weights)
        self._set(layer.weight_scale_name, scale.astype(np.float32))

    def set_bias(self, layer: Layer, bias: np.ndarray) -> None:
        """Quantize a layer's bias anew, at the scale that its sums have."""
        if not layer.bias:
            return
        weight_scale = self.constant(layer.weight_scale_name)
        scale = (np.float32(layer.input_scale) * weight_scale).astype(np.float32)
        steps = np.rint(bias.astype(np.float64) / scale)
        self._set(layer.bias, np.clip(steps, INT32.min, INT32.max).astype(np.int32))
        self._set(layer.bias_scale_name, scale)

    def _set(self, name: str, values: np.ndarray) -> None:
        from onnx import numpy_helper

        tensor = self._constants[name]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))

    def _layer(self, node: Any) -> Layer | None:
        if len(node.input) <= WEIGHT:
            return None
        source: Any = self._producers.get(node.input[0])
        weight: Any = self._producers.get(node.input[WEIGHT])
        if not (_dequantizes(source) and _dequantizes(weight)):
            return None
        if weight.input[0] not in self._constants or source.input[1] not in self._constants:
            return None
        # Others write one value as a list of one; several are of an axis, which no kernel takes.
        scale = self.constant(source.input[1])
        if scale.size != 1:
            return None
        bias: Any = self._producers.get(node.input[BIAS]) if len(node.input) > BIAS else None
        known = _dequantizes(bias) and bias.input[0] in self._constants
        return Layer(
            node,
            weight.input[0],
            weight.input[1],
            bias.input[0] if known else "",
            bias.input[1] if known else "",
            float(scale.item()),
            np.atleast_1d(self.constant(weight.input[1])),
        )


def _dequantizes(node: Any) -> bool:
    return node is not None and node.op_type == DEQUANTIZE


def _frame(draft: Draft) -> Any:
    """The draft as ONNX Runtime's quantizer writes it, whose weights and biases get other values.

    The same for all drafts that differ in those alone: what it takes is longer than all else.
    """
    import onnx

    ours = {name for one in draft.weighted() for name in one.node.input[WEIGHT:]}
    bare = copy_of(draft.model)
    for tensor in bare.graph.initializer:
        if tensor.name in ours:
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
    key = hashlib.sha256(bare.SerializeToString(deterministic=True))
    key.update(repr((sorted(draft.ranges.items()), sorted(draft.floats))).encode())
    if key.digest() not in _FRAMES:
        while len(_FRAMES) >= MOST_FRAMES:
            _FRAMES.pop(next(iter(_FRAMES)))
        _FRAMES[key.digest()] = _by_onnxruntime(draft).SerializeToString()
    return onnx.load_from_string(_FRAMES[key.digest()])


def _large(draft: Draft) -> dict[str, Weighted]:
    """Weights that lie in a file and get other values, by the constant's name."""
    graph = draft.model.graph
    found = {one.name for one in graph.initializer if onnx_models.is_external(one)}
    if not found:
        return {}
    found -= {name for node in graph.node if node.name in draft.floats for name in node.input}
    weights = {one.node.input[WEIGHT]: one for one in draft.weighted()}
    return {name: one for name, one in weights.items() if name in found}


def _small(draft: Draft) -> Any:
    """The model for ONNX Runtime's quantizer, which reads all weights.

    In place of large ones, which get other values, stand ones, as many as there are channels.
    """
    from onnx import numpy_helper, shape_inference

    if not onnx_models.holds_external(draft.model):
        return draft.model
    large = _large(draft)
    # With ones in their places nobody could tell the shapes any more.
    model = shape_inference.infer_shapes(draft.model)
    for tensor in model.graph.initializer:
        if tensor.name in large:
            one = large[tensor.name]
            sides = [side if place == one.axis else 1 for place, side in enumerate(tensor.dims)]
            taps = tensor.dims[2:] if one.node.op_type == "Conv" else []
            shape = [*sides[:2], *taps]
            tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), tensor.name))
        elif onnx_models.is_external(tensor):
            onnx_models.embed(tensor)
    return model


def _by_onnxruntime(draft: Draft) -> Any:
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    logging.getLogger().setLevel(logging.ERROR)  # it advises to do what was just done
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as folder:
        output, cache = Path(folder) / "int8.onnx", Path(folder) / "ranges.json"
        # Where an activation can't be left out after all, what it reads has its range, too.
        behind = before_clips(draft.model).items()
        shared = {name: draft.ranges[of] for name, of in behind if of in draft.ranges}
        ends: dict[str, Any] = {
            name: (np.array(low, np.float32), np.array(high, np.float32))
            for name, (low, high) in {**shared, **draft.ranges}.items()
        }
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ends), cache)
        quantize_static(
            _small(draft),
            output,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(draft.floats),
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            calibration_cache_path=cache,
        )
        return onnx.load(output)


def worst_of_layers(model: Any) -> dict[str, int]:
    """The largest sum of two neighbouring weights of each quantized layer that adds in 16 bits.

    A proof, not a sample: where it is at most ``scales.MOST_OF_A_PAIR`` no input can make int8
    kernels without VNNI saturate, since activations are at most 255. Depthwise convolutions aren't
    in it, their kernels add in 32 bits.
    """
    graph = QdqGraph(model)

    def weights(node: Any) -> np.ndarray | None:
        layer = graph.layers.get(node.name)
        return None if layer is None else graph.weights_of(layer)

    return {
        one.node.name: int(worst_pairs(one.weights, one).max(initial=0))
        for one in weighted(model, weights)
        if not one.depthwise
    }
