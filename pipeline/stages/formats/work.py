"""What a worker does for the variant fp16: it watches how large values become, and converts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...quantization.sessions import session, with_outputs
from ...storage import onnx_models
from .conversion import HalfGraph

Fields = Mapping[str, Any]
Arrays = Mapping[str, Any]


class Halving:
    """The requests of one conversion, one after the other."""

    def __init__(self) -> None:
        self._peaks: dict[str, float] = {}
        self._names: list[str] = []
        self._session: Any = None

    def watch(self, fields: Fields, feeds: Arrays) -> None:
        """{model} + feeds: run them, and keep the largest magnitude of every float tensor."""
        if self._session is None:
            model = onnx_models.load(Path(fields["model"]))
            self._names = float_tensors(model)
            watched = with_outputs(model, self._names) if self._names else model
            self._session = session(watched, optimize=False)
        found = self._session.run(self._names, dict(feeds)) if self._names else []
        seen = {**feeds, **dict(zip(self._names, found, strict=True))}
        for name, array in seen.items():
            if array.dtype == np.float32:
                # NaN, too, is to stay: Python's max would lose it.
                peak = np.max(np.abs(array), initial=self._peaks.get(name, 0.0))
                self._peaks[name] = float(peak)

    def halve(self, fields: Fields, _feeds: Arrays) -> dict[str, Any]:
        """{source, output, rounded}: the model with float16 inside, and one rounded like it.

        Replies {nodes, halves, kept}, or why it is {impossible}.
        """
        import onnx

        peaks, self._peaks, self._session = self._peaks, {}, None
        source = Path(fields["source"])
        if onnx_models.is_large(source):
            return {"impossible": "it is over 2 GiB"}
        try:
            graph = HalfGraph(onnx.load(source), peaks)
        except ValueError as error:
            return {"impossible": str(error)}
        for key, model in (("output", graph.written()), ("rounded", graph.rounded())):
            Path(fields[key]).write_bytes(model.SerializeToString(deterministic=True))
        return {
            "nodes": graph.total,
            "halves": graph.total - len(graph.kept),
            "kept": [asdict(one) for one in graph.kept],
        }


def float_tensors(model: Any) -> list[str]:
    """The float32 tensors that the graph's nodes give, in its order."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    known = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    return [name for node in graph.node for name in node.output if name in known]
