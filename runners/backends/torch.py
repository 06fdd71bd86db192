"""PyTorch as a runner: the exported program, so that a worker never needs the model's code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import registry
from ..base import (
    Placement,
    RunnerUnavailable,
    SessionError,
    Settings,
    TensorSpec,
    session_error,
)
from ..machine import host
from . import probe

GRAPH = "cuda_graph"
RUNS_BEFORE_CAPTURE = 3


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
                results = self._computed(self._tensors(feeds))
                arrays = [result.cpu().numpy() for result in results]
        except Exception as error:  # KeyError, RuntimeError, and whatever a guard raises
            raise session_error(error) from error
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}

    def close(self) -> None:
        """See ``Session.close``."""
        self._module = None

    def _tensors(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        return [self._torch.from_numpy(feeds[spec.name]) for spec in self.inputs]

    def _computed(self, tensors: Sequence[Any]) -> Sequence[Any]:
        results = self._module(*tensors)
        return results if isinstance(results, tuple | list) else (results,)


class DeviceTorchSession(TorchSession):
    """A program that was moved to a device with a memory of its own, such as "cuda:1"."""

    def __init__(
        self, program: Any, names: Mapping[str, Sequence[str]], placement: Placement, device: str
    ) -> None:
        super().__init__(program, names, placement)
        self._device = self._torch.device(device)

    def resident(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See ``Resident``."""
        with self._torch.inference_mode():
            tensors = self._tensors(feeds)

        def run() -> None:
            try:
                with self._torch.inference_mode():
                    self._once_more(tensors)
                    self._finish()
            except Exception as error:
                raise session_error(error) from error

        return run

    def _tensors(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        return [tensor.to(self._device) for tensor in super()._tensors(feeds)]

    def _once_more(self, tensors: Sequence[Any]) -> None:
        self._computed(tensors)

    def _finish(self) -> None:
        """Wait for what was launched: a call returns before it is computed."""
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)


class CapturedTorchSession(DeviceTorchSession):
    """All launches of a run as one CUDA graph, which is replayed in the buffers of the first run.

    Source: pytorch.org, "CUDA semantics", "CUDA Graphs".
    """

    _graph: Any = None
    _held: Sequence[Any] = ()
    _fed: Sequence[Any] = ()
    _results: Sequence[Any] = ()

    def close(self) -> None:
        """See ``Session.close``."""
        self._graph, self._held, self._fed, self._results = None, (), (), ()
        super().close()

    def _computed(self, tensors: Sequence[Any]) -> Sequence[Any]:
        if self._module is None:
            raise SessionError("the session is closed")
        graph = self._graph or self._captured(tensors)
        for held, tensor in zip(self._held, tensors, strict=True):
            if held.shape != tensor.shape:
                given, wanted = list(tensor.shape), list(held.shape)
                raise SessionError(f"a CUDA graph of an input {wanted} takes no {given}")
            held.copy_(tensor)
        self._fed = tensors
        graph.replay()
        return self._results

    def _once_more(self, tensors: Sequence[Any]) -> None:
        """The graph alone, where its buffers hold these already."""
        if self._fed is tensors:
            self._graph.replay()
        else:
            self._computed(tensors)

    def _captured(self, tensors: Sequence[Any]) -> Any:
        cuda = self._torch.cuda
        cuda.set_device(self._device)
        self._held = [tensor.clone() for tensor in tensors]
        # What libraries set up at their first runs must not be captured.
        beside = cuda.Stream(self._device)
        beside.wait_stream(cuda.current_stream(self._device))
        with cuda.stream(beside):
            for _ in range(RUNS_BEFORE_CAPTURE):
                super()._computed(self._held)
        cuda.current_stream(self._device).wait_stream(beside)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            self._results = super()._computed(self._held)
        self._graph = graph
        return graph


class Torch:
    """``torch``: the reference, eager kernels on the CPU; on a GPU ("cuda", "cuda:1") its peer."""

    name = "torch"
    formats = ("pt2",)
    precisions = ("f32", "tf32")
    tunables: Mapping[str, tuple[Any, ...]] = {GRAPH: (True,)}

    def version(self) -> str:
        """The version of the installed torch."""
        return _library().__version__

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``."""
        return registry.why_missing(_library)

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        return ("CPU", *_gpus(_library()))

    def load(self, model: Path, settings: Settings) -> TorchSession:
        """See ``Runner.load``. f32 on the CPU, f32 and tf32 on a GPU.

        On a GPU f32 has to be that on the probe; tf32 is allowed, and cuDNN chooses.
        """
        library = _library()
        settings.refuse_unknown(self.name, self.tunables)
        device = device_of(library, settings)
        if settings.options.get(GRAPH) and device == "cpu":
            raise SessionError(f"{GRAPH} is for a GPU, not for {settings.device}")
        library.set_num_threads(settings.threads)
        program, names = _program(library, model)
        nodes = sum(node.op == "call_function" for node in program.graph.nodes)
        threads = library.get_num_threads()
        if device == "cpu":
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
        precision, known = _set_precision(library, device, settings.precision)
        placement = Placement(
            settings.device,
            precision,
            threads,
            {"CUDA": nodes},
            provider="CUDA",
            device_name=library.cuda.get_device_name(device),
            precision_from=known,
        )
        kind = CapturedTorchSession if settings.options.get(GRAPH) else DeviceTorchSession
        try:
            return kind(moved(program, device), names, placement, device)
        except Exception as error:
            said = f"torch can't bring the program to {device}: {error}"
            raise session_error(error, said) from error


def device_of(library: Any, settings: Settings) -> str:
    """The device as torch calls it: "cpu", "cuda:0".

    Raises ``RunnerUnavailable`` for a GPU that isn't there, ``SessionError`` for any other device
    and for a precision that the device hasn't.
    """
    found = re.fullmatch(r"(CPU)|cuda(?::(\d+))?", settings.device)
    if not found or settings.precision not in (("f32",) if found[1] else ("f32", "tf32")):
        raise SessionError(
            "torch runs f32 on CPU, and f32 and tf32 on cuda, "
            f"not {settings.precision} on {settings.device}"
        )
    if found[1]:
        return "cpu"
    if not library.version.cuda:
        raise RunnerUnavailable(
            f"torch has no CUDA: torch {library.__version__}; install a build of torch for CUDA in "
            "an environment of its own and name that: [runners.torch] python"
        )
    gpus = _gpus(library)
    index = int(found[2] or 0)
    if index >= len(gpus):
        raise RunnerUnavailable(
            f"torch {library.__version__} finds {', '.join(gpus) or 'no GPU'}, not "
            f"{settings.device}; `edgepipe doctor` looks at the driver"
        )
    return f"cuda:{index}"


def _gpus(library: Any) -> list[str]:
    count = library.cuda.device_count() if library.version.cuda else 0
    return ["cuda", *(f"cuda:{number}" for number in range(1, count))][:count]


def _set_precision(library: Any, device: str, precision: str) -> tuple[str, str]:
    """Set it for convolutions and products; returns it and how it is known (see ``Placement``)."""
    wanted = {"f32": "ieee", "tf32": "tf32"}[precision]
    for place in (library.backends.cuda.matmul, library.backends.cudnn.conv):
        place.fp32_precision = wanted
        if place.fp32_precision != wanted:
            raise SessionError(f"torch has fp32_precision={place.fp32_precision}, not {wanted}")
    if precision == "tf32":
        return precision, "read back"
    found = probed(library, device)
    if found != precision:
        raise SessionError(f"torch computes in {found} on this GPU, not in {precision}")
    return found, "probed"


def probed(library: Any, device: str) -> str:
    """The precision of a convolution there: see ``probe``."""
    given = library.from_numpy(probe.feeds()[probe.INPUT]).to(device)
    identity = library.eye(probe.CHANNELS, device=device).reshape(probe.CHANNELS, -1, 1, 1)
    with library.inference_mode():
        result = library.nn.functional.conv2d(given, identity)
    return probe.precision({probe.OUTPUT: result.cpu().numpy()})


def moved(program: Any, device: str) -> Any:
    """An exported program on another device, with what it makes by itself."""
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def _program(library: Any, model: Path) -> tuple[Any, dict[str, list[str]]]:
    """The program of a file, and the model's names for its inputs and outputs.

    A program knows them by graph node; the exporter puts the names beside it.
    """
    extra: dict[str, Any] = {"io.json": ""}
    try:
        program = library.export.load(model, extra_files=extra)
        return program, json.loads(extra["io.json"])
    except Exception as error:  # torch raises many kinds for a file it can't read
        said = f"torch can't load the exported program: {error}"
        raise session_error(error, said) from error


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
