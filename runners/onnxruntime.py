"""ONNX Runtime's runners: one session class; the runners differ in how they set it up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import registry
from .base import Placement, RunnerUnavailable, SessionError, Settings, TensorSpec

if TYPE_CHECKING:
    import numpy as np

# ONNX Runtime names types as "tensor(float)"; numpy has other names for some of them.
NUMPY_NAMES = {"float": "float32", "double": "float64"}
LOG_ERRORS_ONLY = 3


def library() -> Any:
    """The onnxruntime module. Raises ``RunnerUnavailable`` without it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise registry.missing(OrtCpu.name, error) from error
    return onnxruntime


class OrtSession:
    """An ``onnxruntime.InferenceSession`` behind the ``Session`` protocol."""

    def __init__(self, session: Any, placement: Placement) -> None:
        self._session: Any = session
        self.placement = placement
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``. Raises ``SessionError`` for a failed run."""
        try:
            outputs = self._session.run(None, feeds)
        except Exception as error:  # of onnxruntime's own kinds, without a base
            raise SessionError(f"{type(error).__name__}: {error}") from error
        return dict(zip(self._names, outputs, strict=True))

    def close(self) -> None:
        """See ``Session.close``."""
        self._session = None


class OrtCpu:
    """``ort-cpu``: the default CPU execution provider."""

    name = "ort-cpu"
    formats = ("onnx",)
    precisions = ("f32",)

    def version(self) -> str:
        """The version of the installed onnxruntime."""
        return library().__version__

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``."""
        try:
            library()
        except RunnerUnavailable as error:
            return str(error)
        return None

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        library()
        return ("CPU",)

    def load(self, model: Path, settings: Settings) -> OrtSession:
        """See ``Runner.load``. Only f32 on the CPU: the provider has no other precision."""
        if (settings.precision, settings.device) != ("f32", "CPU"):
            raise SessionError(
                f"ort-cpu runs f32 on CPU, not {settings.precision} on {settings.device}"
            )
        session = _create(model, session_options(settings), ["CPUExecutionProvider"])
        nodes = assigned_nodes(session)
        return OrtSession(session, Placement("CPU", "f32", settings.threads, nodes))


def session_options(settings: Settings) -> Any:
    """Options that every ONNX Runtime runner shares.

    All graph optimizations stay on (the int8 and NCHWc layouts are among the last ones), and
    the session records where each node went, which is what ``assigned_nodes`` reads.
    """
    runtime = library()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def assigned_nodes(session: Any) -> dict[str, int]:
    """Graph nodes per execution provider, as the session itself recorded them."""
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(nodes)


def _create(model: Path, options: Any, providers: list[Any]) -> Any:
    try:
        # enable_fallback=0: without it a provider that fails is replaced by the CPU's.
        return library().InferenceSession(str(model), options, providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises a family of pybind classes without a base
        raise SessionError(f"onnxruntime can't load the model: {error}") from error


def _spec(node: Any) -> TensorSpec:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, NUMPY_NAMES.get(str(kind), str(kind)), shape)
