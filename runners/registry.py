"""Which runners there are: name -> where the class is, and how to install what it needs.

A registry of names, so that listing runners imports none of them. Third parties add theirs
with an entry point in the group ``edgepipe.runners``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from .base import Runner, RunnerUnavailable
from .targets import Isa

GROUP = "edgepipe.runners"
FIELDS = ("name", "formats", "precisions")
METHODS = ("version", "unavailable", "devices", "load")


@dataclass(frozen=True)
class Entry:
    """A runner by name: ``path`` is "module:Class", ``install`` the command that makes it work.

    ``formats`` and ``precisions`` are repeated here so that cells can be planned without importing
    the runner; ``formats`` is ``None`` for a plug-in, which has to be asked. ``device`` is what it
    runs on unless told otherwise, ``extra`` is edgepipe's extra that installs it. ``origin`` is the
    distribution that brings the runner, with its version; edgepipe's own have none. ``profiles``
    says of those that they are a ``Profiler``. ``onednn``: it computes with oneDNN, which can be
    told to compute as an older CPU. ``half_precisions`` are those of ``precisions`` that it has for
    files of float16 tensors alone, ``device_precisions`` those that it has not on a CPU.
    ``builds``: it is a ``Builder``. ``remark`` is what a user has to know who chooses it.
    """

    name: str
    path: str
    install: str
    formats: tuple[str, ...] | None
    device: str = "CPU"
    extra: str = ""
    origin: str | None = None
    precisions: tuple[str, ...] = ("f32",)
    profiles: bool = False
    onednn: bool = False
    half_precisions: tuple[str, ...] = ()
    device_precisions: tuple[str, ...] = ()
    builds: bool = False
    remark: str = ""


_PACKAGE = f"{__package__}.backends"
OPENVINO_PRECISIONS = ("f32", "bf16", "f16")

BUILT_IN = {
    entry.name: entry
    for entry in (
        Entry(
            "ort-cpu",
            f"{_PACKAGE}.onnxruntime:OrtCpu",
            'pip install "edgepipe[cpu]"',
            ("onnx",),
            extra="cpu",
            profiles=True,
        ),
        Entry(
            "openvino",
            f"{_PACKAGE}.openvino:OpenVino",
            'pip install "edgepipe[openvino]"',
            ("openvino-ir", "onnx"),
            extra="openvino",
            precisions=OPENVINO_PRECISIONS,
            profiles=True,
            onednn=True,
        ),
        Entry(
            "ort-openvino",
            f"{_PACKAGE}.onnxruntime_openvino:OrtOpenVino",
            "edgepipe env create ort-openvino",
            ("onnx",),
            extra="ort-openvino",
            precisions=OPENVINO_PRECISIONS,
            onednn=True,
        ),
        Entry(
            "ort-cuda",
            f"{_PACKAGE}.nvidia.cuda:OrtCuda",
            "edgepipe env create ort-cuda",
            ("onnx",),
            device="GPU",
            extra="cuda",
            precisions=("f32", "tf32", "f16"),
            half_precisions=("f16",),
            remark=(
                "int8 is computed in float, with QuantizeLinear and DequantizeLinear between, and "
                "17 % of the default model's nodes on the CPU: fp16 is the variant for a GPU"
            ),
        ),
        Entry(
            "ort-tensorrt",
            f"{_PACKAGE}.nvidia.tensorrt:OrtTensorRt",
            "edgepipe env create ort-tensorrt",
            ("onnx",),
            device="GPU",
            extra="tensorrt",
            precisions=("f32", "f16"),
            builds=True,
            remark=(
                "an engine is built for each file and setting, in seconds to minutes, and kept in "
                "the workspace; edgepipe's int8 has no form that TensorRT takes"
            ),
        ),
        Entry(
            "torch",
            f"{_PACKAGE}.torch:Torch",
            'pip install "edgepipe[export]"',
            ("pt2",),
            extra="export",
            precisions=("f32", "tf32"),
            device_precisions=("tf32",),
        ),
    )
}


def names() -> list[str]:
    """Every runner's name, built-in ones first, installed or not."""
    return list(BUILT_IN) + sorted(set(_plugins()) - set(BUILT_IN))


def entry(name: str) -> Entry:
    """What is known of a runner without importing it. Raises ``RunnerUnavailable``."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    plugins = _plugins()
    if name in plugins:
        point = plugins[name]
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else None
        return Entry(name, point.value, "", None, origin=origin)
    known = names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise RunnerUnavailable(f"no runner named {name!r}: {hint}")


def formats(name: str) -> tuple[str, ...]:
    """The model formats that a runner takes, best first. Imports a plug-in to ask it."""
    known = entry(name).formats
    return get(name).formats if known is None else known


def builds(name: str) -> bool:
    """Whether a runner builds something when it loads a model: see ``Builder``."""
    return name in BUILT_IN and BUILT_IN[name].builds


def device(name: str) -> str:
    """The device that a runner runs on unless told otherwise."""
    return entry(name).device


def why_not_capped(name: str, isa: Isa, device: str = "CPU") -> str | None:
    """Why a runner can't compute as an older CPU on the one at hand, ``None`` if it can.

    ONNX Runtime's and torch's own kernels look at the CPU and have no such switch.
    """
    if name in BUILT_IN and BUILT_IN[name].onednn and device == "CPU":
        return None
    able = " and ".join(entry.name for entry in BUILT_IN.values() if entry.onednn)
    instead = "an emulator that has such a CPU can be a target, for every runner (emulated = true)"
    if isa.emulated:
        instead = f"--target {isa.emulated} emulates such a CPU, for every runner"
    on = "" if device == "CPU" else f" on {device}"
    return f"{name}{on} can't compute as {isa.value}, only {able} on a CPU can; {instead}"


def get(name: str) -> Runner:
    """Import a runner and return it.

    Raises ``RunnerUnavailable`` for an unknown name, with the nearest known one, and for a
    plug-in that fails to import or is no ``Runner``.
    """
    found = entry(name)
    module, _, attribute = found.path.partition(":")
    try:
        runner = getattr(import_module(module), attribute)()
        broken = breach(runner, name)
    except (Exception, SystemExit) as error:  # whatever a plug-in does, the others go on
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunnerUnavailable(
            f"runner {name} ({found.path}) fails to import: {reason}"
        ) from error
    if broken:
        raise RunnerUnavailable(f"runner {name} ({found.path}) breaks the protocol: {broken}")
    return runner


def breach(runner: object, name: str) -> str | None:
    """How an object is not the ``Runner`` called ``name``; ``None`` if it is."""
    lacking = [member for member in (*FIELDS, *METHODS) if not hasattr(runner, member)]
    if lacking:
        return f"it has no {', '.join(lacking)}"
    fields = {field: getattr(runner, field) for field in FIELDS}
    if (own := fields.pop("name")) != name:
        return f"its name is {own!r}"
    for field, value in fields.items():
        if not isinstance(value, tuple) or not value or not all(isinstance(x, str) for x in value):
            return f"its {field} are {value!r}, not a tuple of names"
    unusable = [method for method in METHODS if not callable(getattr(runner, method))]
    return f"its {', '.join(unusable)} can't be called" if unusable else None


def why_missing(library: Callable[[], object]) -> str | None:
    """What keeps a runner's ``library`` from being imported, ``None`` if it can be."""
    try:
        library()
    except RunnerUnavailable as error:
        return str(error)
    return None


def missing(name: str, error: ImportError) -> RunnerUnavailable:
    """The error for a runner whose library is not installed (or broken), with the remedy."""
    return RunnerUnavailable(f"{error}; {BUILT_IN[name].install}")


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
