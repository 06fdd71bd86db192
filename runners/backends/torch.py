"""PyTorch as a runner: the exported program, so that a worker never needs the model's code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import registry
from ..base import Placement, SessionError, Settings, TensorSpec, session_error
from ..machine import host


class TorchSession:
    """A ``torch.export`` program, run under ``inference_mode``."""

    def __init__(
        self, program: Any, names: Mapping[str, Sequence[str]], placement: Placement
    ) -> None:
        import torch

        self.placement = placement
        self._torch = torch
        self._module: Any = program.module()
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = _specs(names["inputs"], signature.user_inputs, values)
        self.outputs = _specs(names["outputs"], signature.user_outputs, values)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``."""
        try:
            with self._torch.inference_mode():
                tensors = [self._torch.from_numpy(feeds[spec.name]) for spec in self.inputs]
                results = self._module(*tensors)
        except Exception as error:  # KeyError, RuntimeError, and whatever a guard raises
            raise session_error(error) from error
        if not isinstance(results, tuple | list):
            results = (results,)
        return {
            spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)
        }

    def close(self) -> None:
        """See ``Session.close``."""
        self._module = None


class Torch:
    """``torch``: the reference, eager kernels on the CPU."""

    name = "torch"
    formats = ("pt2",)
    precisions = ("f32",)

    def version(self) -> str:
        """The version of the installed torch."""
        return _library().__version__

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``."""
        return registry.why_missing(_library)

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        _library()
        return ("CPU",)

    def load(self, model: Path, settings: Settings) -> TorchSession:
        """See ``Runner.load``. f32 on the CPU only."""
        library = _library()
        if (settings.precision, settings.device) != ("f32", "CPU"):
            raise SessionError(
                f"torch runs f32 on CPU, not {settings.precision} on {settings.device}"
            )
        settings.refuse_unknown(self.name, {})
        library.set_num_threads(settings.threads)
        # A program knows its inputs and outputs by graph node; the exporter puts the model's
        # names for them beside it.
        extra: dict[str, Any] = {"io.json": ""}
        try:
            program = library.export.load(model, extra_files=extra)
            names = json.loads(extra["io.json"])
        except Exception as error:  # torch raises many kinds for a file it can't read
            said = f"torch can't load the exported program: {error}"
            raise session_error(error, said) from error
        nodes = sum(node.op == "call_function" for node in program.graph.nodes)
        threads = library.get_num_threads()
        placement = Placement(
            "CPU",
            "f32",
            threads,
            {"CPU": nodes},
            provider="CPU",
            device_name=host.cpu_name(),
            precision_from="only one",
        )
        return TorchSession(program, names, placement)


def tracer(model: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Load an exported program, in this process, to look at its inside.

    Returns a function from feeds, in the order of the program's inputs, to every intermediate
    tensor by graph node, in order of execution.
    """
    torch = _library()

    class Tracer(torch.fx.Interpreter):
        """Keeps what each operator gave, copied: in-place activations overwrite it."""

        def __init__(self, module: Any) -> None:
            super().__init__(module)
            self.values: dict[str, np.ndarray] = {}

        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, torch.Tensor):
                self.values[n.name] = result.numpy().copy()
            return result

    module = torch.export.load(model).module()

    def trace(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        interpreter = Tracer(module)
        with torch.inference_mode():
            interpreter.run(*(torch.from_numpy(array) for array in feeds.values()))
        return interpreter.values

    return trace


def _library() -> Any:
    try:
        import torch
    except ImportError as error:
        raise registry.missing(Torch.name, error) from error
    return torch


def _specs(
    names: Sequence[str], nodes: Sequence[str], values: Mapping[str, Any]
) -> tuple[TensorSpec, ...]:
    """``values`` holds a fake tensor for each graph node: its shape and dtype."""
    specs = []
    for name, node in zip(names, nodes, strict=True):
        shape = tuple(size if isinstance(size, int) else None for size in values[node].shape)
        specs.append(TensorSpec(name, str(values[node].dtype).removeprefix("torch."), shape))
    return tuple(specs)
