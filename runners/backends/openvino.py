"""OpenVINO's own runtime as a runner: what it would choose by itself is set and read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import registry
from ..base import (
    NodeTimes,
    Placement,
    RunnerUnavailable,
    SessionError,
    Settings,
    TensorSpec,
    session_error,
    unloadable,
)
from ..machine import host
from .openvino_counters import Counters

if TYPE_CHECKING:
    import numpy as np

    from .queues import Arrays, Done

# edgepipe's names of precisions, as OpenVINO's element types spell them.
PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
KERNEL_NAMES = {"u8": "int8", "i8": "int8"}
# Values worth trying beside the defaults, which depend on the machine.
OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "hyper_threading": (True, False),
    "pinning": (True, False),
    "denormals_as_zero": (True,),
}
PROPERTIES = {
    "hyper_threading": "ENABLE_HYPER_THREADING",
    "pinning": "ENABLE_CPU_PINNING",
    "denormals_as_zero": "CPU_DENORMALS_OPTIMIZATION",
}


class OpenVinoQueue:
    """OpenVINO's own queue of infer requests, behind the ``Queue`` protocol."""

    def __init__(self, compiled: Any, requests: int, names: Sequence[str]) -> None:
        self._queue: Any = _library().AsyncInferQueue(compiled, requests)
        self._names = names
        self._queue.set_callback(self._completed)

    def submit(self, feeds: Arrays, done: Done) -> None:
        """See ``Queue.submit``."""
        try:
            self._queue.start_async(feeds, done, share_inputs=True)
        except Exception as error:
            raise session_error(error) from error

    def wait(self) -> None:
        """See ``Queue.wait``."""
        try:
            self._queue.wait_all()
        except Exception as error:
            raise session_error(error) from error

    def close(self) -> None:
        """See ``Queue.close``."""
        self._queue = None

    def _completed(self, request: Any, done: Done) -> None:
        done({name: request.get_output_tensor(i).data for i, name in enumerate(self._names)})


class OpenVinoSession:
    """A compiled model with one infer request, and more of them in a queue on demand."""

    def __init__(self, model: Any, compiled: Any, placement: Placement) -> None:
        self._compiled: Any = compiled
        self.from_cache = bool(compiled.get_property("LOADED_FROM_CACHE"))
        self._request: Any = compiled.create_infer_request()
        self.placement = placement
        # Named as in the file: where compiling merges two tensors, a port has both their names.
        self.inputs = _specs(model.inputs, compiled.inputs)
        self.outputs = _specs(model.outputs, compiled.outputs)
        self._names = [spec.name for spec in self.outputs]
        self._proven: Mapping[str, np.ndarray] | None = None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``. Inputs are shared with the runtime, outputs are copied.

        ``infer`` is the faster call, but with one thread it loses what a node raises and
        returns stale outputs. So feeds go through ``start_async`` first, which does raise, and
        through ``infer`` when the same mapping comes again, as it does while being timed.
        """
        if feeds is self._proven:
            results = self._request.infer(feeds, share_inputs=True)
            return {name: results[index] for index, name in enumerate(self._names)}
        # The request would go on with what it was fed last.
        if missing := [spec.name for spec in self.inputs if spec.name not in feeds]:
            raise SessionError(f"no feed for input {', '.join(missing)}")
        try:
            self._request.start_async(feeds, share_inputs=True)
            self._request.wait()
        except Exception as error:  # RuntimeError from the runtime, others from its bindings
            raise session_error(error) from error
        self._proven = feeds
        return {
            name: self._request.get_output_tensor(index).data.copy()
            for index, name in enumerate(self._names)
        }

    def queue(self) -> OpenVinoQueue:
        """See ``Concurrent.queue``: as many requests as OpenVINO finds best for its streams."""
        requests = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        return OpenVinoQueue(self._compiled, requests, self._names)

    def close(self) -> None:
        """See ``Session.close``."""
        self._compiled = self._request = self._proven = None


class CountedOpenVinoSession(OpenVinoSession):
    """The same behind the ``ProfiledSession`` protocol, of a model compiled with ``PERF_COUNT``."""

    most_runs = None

    def __init__(self, model: Any, compiled: Any, placement: Placement) -> None:
        super().__init__(model, compiled, placement)
        self._counters = Counters(compiled, self._request)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``."""
        outputs = super().run(feeds)
        self._counters.ran()
        return outputs

    def begin(self) -> None:
        """See ``ProfiledSession.begin``."""
        self._counters.begin()

    def times(self) -> NodeTimes:
        """See ``ProfiledSession.times``: means over the runs."""
        return self._counters.times(self.placement.device)


class OpenVino:
    """``openvino``: native OpenVINO, set for latency unless it may choose its streams."""

    name = "openvino"
    formats = ("openvino-ir", "onnx")
    precisions = tuple(PRECISIONS)
    tunables = OPTIONS

    def version(self) -> str:
        """The version of the installed openvino, without its build number."""
        return _library().__version__.partition("-")[0]

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``."""
        return registry.why_missing(_library)

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        return tuple(_library().Core().available_devices)

    def load(self, model: Path, settings: Settings) -> OpenVinoSession:
        """See ``Runner.load``.

        OpenVINO computes in bf16 where the CPU can, unless told otherwise, and takes bf16 for
        f16 on such a CPU: the precision is set, read back, and has to be the one asked for.
        """
        return OpenVinoSession(*self._compile(model, settings))

    def load_profiled(self, model: Path, settings: Settings) -> CountedOpenVinoSession:
        """See ``Profiler.load_profiled``."""
        return CountedOpenVinoSession(*self._compile(model, settings, PERF_COUNT=True))

    def _compile(self, model: Path, settings: Settings, **more: Any) -> tuple[Any, Any, Placement]:
        """The model as read, as compiled with ``more`` properties, and how it is placed."""
        library = _library()
        if settings.precision not in PRECISIONS:
            raise SessionError(f"openvino has no precision {settings.precision!r}")
        if not settings.optimize:
            raise SessionError("openvino always optimizes; ort-cpu can run a graph as it is")
        core = library.Core()
        if settings.device not in core.available_devices:
            found = ", ".join(core.available_devices) or "none"
            raise RunnerUnavailable(f"openvino has no device {settings.device}; found: {found}")
        settings.refuse_unknown(self.name, self.tunables)
        try:
            read = core.read_model(model)
            if settings.batch is not None:
                _fix_batch(read, settings.batch)
            compiled = core.compile_model(read, settings.device, _properties(settings) | more)
        except RuntimeError as error:
            raise unloadable("openvino", model, error) from error
        placement = _placement(core, compiled, settings)
        if placement.precision != settings.precision:
            raise SessionError(
                f"openvino runs {placement.precision} on this device, not {settings.precision}"
            )
        return read, compiled, placement


def _properties(settings: Settings) -> dict[str, Any]:
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": settings.precision}
    if settings.streams is None:
        properties["PERFORMANCE_HINT"] = "THROUGHPUT"
    else:
        properties |= {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": settings.streams}
    if settings.device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    if settings.cache:
        properties["CACHE_DIR"] = settings.cache
    return properties | {PROPERTIES[name]: value for name, value in settings.options.items()}


def _fix_batch(model: Any, batch: int) -> None:
    """Give every input whose first dimension is dynamic this one."""
    shapes = {}
    for port in model.inputs:
        shape = port.partial_shape
        if len(shape) and shape[0].is_dynamic:
            shape[0] = batch
            shapes[port] = shape
    if shapes:
        model.reshape(shapes)


def _placement(core: Any, compiled: Any, settings: Settings) -> Placement:
    """Read back from the compiled model, not from what was asked for."""
    element_type = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    names = {library_name: name for name, library_name in PRECISIONS.items()}
    names |= {name: name for name in PRECISIONS}
    devices = compiled.get_property("EXECUTION_DEVICES")
    threads = settings.threads
    if settings.device == "CPU":
        threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    nodes, convolutions = 0, Counter[str]()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        kind = str(info["layerType"].astype(str))
        if kind in ("Const", "Input", "Output"):
            continue
        nodes += 1
        if "Convolution" in kind:
            kernel = str(info["runtimePrecision"].astype(str))
            convolutions[KERNEL_NAMES.get(kernel, kernel)] += 1
    return Placement(
        device=devices[0],
        precision=names.get(element_type, element_type),
        threads=threads,
        nodes=dict.fromkeys(devices, nodes),
        convolutions=dict(convolutions),
        provider=next((name for name in devices if name.startswith(settings.device)), "none"),
        device_name=_device_name(core, settings.device),
        precision_from="read back",
        streams=int(compiled.get_property("NUM_STREAMS")),
    )


def _device_name(core: Any, device: str) -> str:
    """What the device calls itself; of an emulated CPU OpenVINO knows no more than a number."""
    if device == "CPU" and host.emulator():
        return host.cpu_name()
    return str(core.get_property(device, "FULL_DEVICE_NAME"))


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise registry.missing(OpenVino.name, error) from error
    return openvino


def _specs(named: Sequence[Any], ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Names from the model as read, types and shapes from the compiled one."""
    specs = []
    for source, port in zip(named, ports, strict=True):
        shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
        specs.append(TensorSpec(source.any_name, port.element_type.to_dtype().name, shape))
    return tuple(specs)
