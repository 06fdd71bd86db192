"""ONNX Runtime's runners: one session class, one way to make it, and the CPU provider.

Three wheels hold a ``onnxruntime`` folder (onnxruntime, onnxruntime-gpu, onnxruntime-openvino),
each with other providers, and they overwrite one another. The runners in
``onnxruntime_openvino`` and ``nvidia`` may therefore need an environment of their own.
"""

from __future__ import annotations

import functools
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import registry
from ..base import (
    Placement,
    PlacementError,
    RunnerUnavailable,
    SessionError,
    Settings,
    TensorSpec,
    session_error,
    unloadable,
)
from ..machine import host, own_process
from . import onnx_file, probe
from .onnxruntime_trace import TracedSession
from .queues import ThreadQueue

if TYPE_CHECKING:
    import numpy as np

# ONNX Runtime names types as "tensor(float)"; numpy has other names for some of them.
NUMPY_NAMES = {"float": "float32", "double": "float64"}
LOG_ERRORS_ONLY = 3
WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-migraphx",
)
CPU = "CPUExecutionProvider"
# How a session says that a node found no other place than the CPU provider, which it may not use.
FALLBACK_REFUSED = "fallback to CPU EP has been explicitly disabled"
OPERATORS_SHOWN = 5
# An optimized graph is what a session would make of the model every time it is loaded.
CACHED_MODEL = "optimized.onnx"
# Values worth trying beside the defaults. Source: onnxruntime_session_options_config_keys.h.
OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "spinning": (False,),  # idle threads of the pool wait in a loop by default
    "graph_optimization": ("extended", "basic"),  # without NCHWc, without fusions
    "dynamic_block_base": (4,),  # how work is cut for the pool: ever smaller blocks
}


def library(runner: str) -> Any:
    """The onnxruntime module. Raises ``RunnerUnavailable`` without it, or with two in one place."""
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise RunnerUnavailable(
            f"{' and '.join(wheels)} are installed in {sys.prefix} and overwrite each other: "
            "uninstall them all, then install one"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise registry.missing(runner, error) from error
    return onnxruntime


@functools.cache
def installed_wheels() -> tuple[str, ...]:
    """Those of ``WHEELS`` that are installed in this environment; more than one is a collision."""
    found = []
    for name in WHEELS:
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


@dataclass(frozen=True)
class Provider:
    """An execution provider, its options, and a plug-in's devices (none for a built-in one).

    ``beside`` are other providers, with their options, that take what this one doesn't where a
    fallback is allowed; the CPU's comes last. ``keep_graph_in`` names a file for the optimized
    graph, which a provider that compiles nodes can't write down. ``trace_in`` is a folder for the
    times of its nodes.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[Any] = ()
    beside: Sequence[tuple[str, Mapping[str, str]]] = ()
    keep_graph_in: Path | None = None
    trace_in: Path | None = None

    def session(self, model: str | bytes, settings: Settings) -> Any:
        """An ``InferenceSession`` on this provider, and on no other unless a fallback is allowed.

        Raises whatever onnxruntime does. ``enable_fallback=0``: without it a provider that fails
        is replaced by the CPU's.
        """
        options = session_options(settings)
        if self.keep_graph_in:
            options.optimized_model_filepath = str(self.keep_graph_in)
        if self.trace_in:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.trace_in / "trace")
        providers: list[Any] = [(self.name, dict(self.options))]
        if self.devices:
            options.add_provider_for_devices(list(self.devices), dict(self.options))
            providers = []
        if settings.allow_fallback and providers and self.name != CPU:
            providers += [*((name, dict(its)) for name, its in self.beside), CPU]
        if self.name != CPU and not settings.allow_fallback:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        import onnxruntime

        return onnxruntime.InferenceSession(model, options, providers or None, enable_fallback=0)


class OrtSession:
    """An ``onnxruntime.InferenceSession`` behind the ``Session`` protocol.

    ``place`` says where the session runs once somebody asks: it may run a probe, which must not
    be timed as loading. ``from_cache``: the graph was optimized by an earlier load.
    """

    def __init__(
        self, session: Any, place: Callable[[Any], Placement], *, from_cache: bool = False
    ) -> None:
        self.from_cache = from_cache
        self._session: Any = session
        self._place = place
        self._placement: Placement | None = None
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    @property
    def placement(self) -> Placement:
        """See ``Session.placement``."""
        if self._placement is None:
            self._placement = self._place(self._session)
        return self._placement

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``. Raises ``SessionError`` for a failed run."""
        try:
            outputs = self._session.run(None, feeds)
        except Exception as error:  # of onnxruntime's own kinds, without a base
            raise session_error(error) from error
        return dict(zip(self._names, outputs, strict=True))

    def queue(self) -> ThreadQueue:
        """See ``Concurrent.queue``. A session's ``run`` may be called by several threads."""
        return ThreadQueue(self.run, self.placement.streams)

    def close(self) -> None:
        """See ``Session.close``."""
        self._session = None


class OrtCpu:
    """``ort-cpu``: the default CPU execution provider."""

    name = "ort-cpu"
    formats = ("onnx",)
    precisions = ("f32",)
    tunables = OPTIONS

    def version(self) -> str:
        """The version of the installed onnxruntime."""
        return library(self.name).__version__

    def unavailable(self) -> str | None:
        """See ``Runner.unavailable``."""
        return registry.why_missing(lambda: library(self.name))

    def devices(self) -> tuple[str, ...]:
        """See ``Runner.devices``."""
        library(self.name)
        return ("CPU",)

    def load(self, model: Path, settings: Settings) -> OrtSession:
        """See ``Runner.load``. Only f32 on the CPU: the provider has no other precision.

        What it makes of float16 tensors is probed: without kernels for them it widens them, keeps
        what is between them in float32 as well, and only the constants are rounded.
        """
        self._check(settings)
        place = functools.partial(_on_cpu, settings, onnx_file.holds_half(model))
        cached = Path(settings.cache) / CACHED_MODEL if settings.cache else None
        if cached is not None and cached.is_file():
            optimized = create(cached, replace(settings, optimize=False), Provider(CPU))
            return OrtSession(optimized, place, from_cache=True)
        provider = Provider(CPU, keep_graph_in=cached if settings.optimize else None)
        return OrtSession(create(model, settings, provider), place)

    def load_profiled(self, model: Path, settings: Settings) -> TracedSession:
        """See ``Profiler.load_profiled``. The trace goes into a temporary folder."""
        self._check(settings)
        folder = tempfile.TemporaryDirectory(prefix="edgepipe-", ignore_cleanup_errors=True)
        session = create(model, settings, Provider(CPU, trace_in=Path(folder.name)))
        loaded = OrtSession(
            session, functools.partial(_on_cpu, settings, onnx_file.holds_half(model))
        )
        return TracedSession(loaded, session.end_profiling, folder)

    def _check(self, settings: Settings) -> None:
        if (settings.precision, settings.device) != ("f32", "CPU"):
            raise SessionError(
                f"ort-cpu runs f32 on CPU, not {settings.precision} on {settings.device}"
            )
        settings.refuse_unknown(self.name, self.tunables)


def _on_cpu(settings: Settings, half: bool, session: Any) -> Placement:
    precision, known = "f32", "only one"
    if half:
        precision, known = probed_precision(Provider(CPU), settings, half=True), "probed"
    return Placement(
        "CPU",
        precision,
        settings.threads,
        assigned_nodes(session),
        provider=CPU,
        device_name=host.cpu_name(),
        precision_from=known,
        streams=streams_of(settings),
    )


def streams_of(settings: Settings) -> int:
    """Runs side by side: as many as there are threads where the runner may choose.

    On a CPU one thread for each run computes the most, since nothing is handed from one to
    another.
    """
    return settings.threads if settings.streams is None else settings.streams


def session_options(settings: Settings) -> Any:
    """Options that every ONNX Runtime runner shares.

    All graph optimizations stay on (the int8 and NCHWc layouts are among the last ones), and
    the session records where each node went, which is what ``assigned_nodes`` reads.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, settings.threads // streams_of(settings))
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _graph_optimization(settings)
    options.log_severity_level = LOG_ERRORS_ONLY
    if "spinning" in settings.options:
        spinning = "1" if settings.options["spinning"] else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if "dynamic_block_base" in settings.options:
        blocks = str(settings.options["dynamic_block_base"])
        options.add_session_config_entry("session.dynamic_block_base", blocks)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _graph_optimization(settings: Settings) -> Any:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    if not settings.optimize:
        return levels.ORT_DISABLE_ALL
    level = settings.options.get("graph_optimization", "all")
    known = {
        "all": levels.ORT_ENABLE_ALL,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "basic": levels.ORT_ENABLE_BASIC,
    }
    if level not in known:
        raise SessionError(f"graph_optimization: no {level!r}; known: {', '.join(known)}")
    return known[level]


def create(model: Path, settings: Settings, provider: Provider) -> Any:
    """A session that has at least one node on ``provider``, and all of them unless allowed.

    Raises ``RunnerUnavailable`` for a provider that doesn't work at all, ``PlacementError`` for
    nodes that it doesn't take, and ``SessionError`` for a model that can't be loaded.
    """
    try:
        session = provider.session(str(model), settings)
    except SessionError:
        raise
    except Exception as error:  # onnxruntime raises a family of pybind classes without a base
        if FALLBACK_REFUSED not in str(error):
            raise unloadable("onnxruntime", model, error) from error
        raise _misplaced(model, settings, provider) from error
    nodes = assigned_nodes(session)
    if nodes and provider.name not in nodes:  # a model that folds to constants has none
        raise _misplaced(model, settings, provider)
    return session


def assigned_nodes(session: Any) -> dict[str, int]:
    """Graph nodes per execution provider, as the session itself recorded them."""
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(nodes)


def why_not(provider: Provider) -> str | None:
    """What keeps a provider from running anything at all, or ``None`` if it runs the probe."""
    log: list[str] = []
    try:
        with own_process.native_log(log):
            provider.session(probe.model(), Settings(threads=1)).run(None, probe.feeds())
    except Exception as error:
        return _first_error("".join(log)) or " ".join(str(error).split())
    return None


def probed_precision(provider: Provider, settings: Settings, *, half: bool = False) -> str:
    """The precision that sessions with these settings compute in, told by running the probe.

    Of float32 tensors, or of a file's float16 ones (``half``).
    """
    return probe.asked(lambda model: provider.session(model, settings), half=half)


def _misplaced(model: Path, settings: Settings, provider: Provider) -> Exception:
    """Why a session could not be made without the CPU provider: made with it, only to look."""
    try:
        session = provider.session(str(model), replace(settings, allow_fallback=True))
        elsewhere = [
            subgraph
            for subgraph in session.get_provider_graph_assignment_info()
            if subgraph.ep_name != provider.name
        ]
    except Exception as error:
        return unloadable("onnxruntime", model, error)
    total = sum(assigned_nodes(session).values())
    nodes = [node for subgraph in elsewhere for node in subgraph.get_nodes()]
    if len(nodes) == total:
        if reason := why_not(provider):
            return RunnerUnavailable(f"{provider.name} does not work here: {reason}")
        return PlacementError(f"{provider.name} takes none of the model's {total} nodes")
    operators = sorted({node.op_type for node in nodes})
    shown = ", ".join(operators[:OPERATORS_SHOWN])
    more = ", …" if len(operators) > OPERATORS_SHOWN else ""
    return PlacementError(
        f"{provider.name} takes {total - len(nodes)} of the model's {total} nodes, "
        f"not {shown}{more}; --allow-fallback runs those on {elsewhere_of(provider)}"
    )


def elsewhere_of(provider: Provider) -> str:
    """Where nodes may go that a provider doesn't take."""
    return " or ".join([*(name for name, _ in provider.beside), "the CPU"])


def _first_error(log: str) -> str:
    """The first error in onnxruntime's log, without where in the source it was raised."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    line = next((line for line in plain.splitlines() if "[E:onnxruntime:" in line), "")
    return re.split(r"\] |FAIL : ", line)[-1].strip()


def _spec(node: Any) -> TensorSpec:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, NUMPY_NAMES.get(str(kind), str(kind)), shape)
