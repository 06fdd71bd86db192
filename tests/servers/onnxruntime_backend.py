"""What stands in for Triton's ONNX Runtime backend, which no package index carries.

Triton itself reads the repository, checks each request against ``config.pbtxt`` and answers; only
the numbers come from here. Installed as the backend ``onnxruntime`` (a Python-based backend, see
Triton's documentation of that name), it takes the same settings and holds the configuration against
the model, as the real one does, before it serves it.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

triton: Any = importlib.import_module("triton_python_backend_utils")  # the server has it
TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_UINT8": "tensor(uint8)"}


class TritonPythonModel:
    """One instance of a model; Triton finds it by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version that is served. Raises what Triton then logs, and doesn't serve."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        threads = config["parameters"].get("intra_op_thread_count")
        options.intra_op_num_threads = int(threads["string_value"]) if threads else 0
        folder = Path(args["model_repository"], args["model_version"])
        self.session = onnxruntime.InferenceSession(
            folder / config["default_model_filename"], options, providers=["CPUExecutionProvider"]
        )
        batch = [-1] if config["max_batch_size"] else []
        sides = (
            (config["input"], self.session.get_inputs()),
            (config["output"], self.session.get_outputs()),
        )
        for tensors, really in sides:
            described = {one["name"]: (TYPES[one["data_type"]], one["dims"]) for one in tensors}
            actual = {one.name: (one.type, _numbers(one.shape)) for one in really}
            for name, (kind, dims) in described.items():
                if actual.get(name) != (kind, [*batch, *dims]):
                    raise ValueError(f"{name}: {kind} {batch + dims} said, model has {actual}")
        self.outputs = [one["name"] for one in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        # DLPack, since this server's own conversion reads numpy 1's arrays only.
        feeds = {tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()}
        found = zip(self.outputs, self.session.run(self.outputs, feeds), strict=True)
        tensors = [triton.Tensor.from_dlpack(name, np.asarray(array)) for name, array in found]
        return triton.InferenceResponse(tensors)


def _numbers(shape: list[int | str]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]
