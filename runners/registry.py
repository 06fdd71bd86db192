"""Which runners there are: name -> where the class is, and how to install what it needs.

A registry of names, so that listing runners imports none of them. Third parties add theirs
with an entry point in the group ``edgepipe.runners``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from .base import Runner, RunnerUnavailable

GROUP = "edgepipe.runners"


@dataclass(frozen=True)
class Entry:
    """A runner by name: ``path`` is "module:Class", ``install`` the command that makes it work.

    ``formats`` are repeated here so that cells can be planned without importing the runner;
    ``None`` for a plug-in, which has to be asked. ``device`` is what it runs on unless told
    otherwise, ``extra`` is edgepipe's extra that installs it.
    """

    name: str
    path: str
    install: str
    formats: tuple[str, ...] | None
    device: str = "CPU"
    extra: str = ""


_PACKAGE = __name__.rpartition(".")[0]

BUILT_IN = {
    entry.name: entry
    for entry in (
        Entry(
            "ort-cpu",
            f"{_PACKAGE}.onnxruntime:OrtCpu",
            'pip install "edgepipe[cpu]"',
            ("onnx",),
            extra="cpu",
        ),
        Entry(
            "openvino",
            f"{_PACKAGE}.openvino:OpenVino",
            'pip install "edgepipe[openvino]"',
            ("onnx",),
            extra="openvino",
        ),
        Entry(
            "ort-openvino",
            f"{_PACKAGE}.onnxruntime_openvino:OrtOpenVino",
            "edgepipe env create ort-openvino",
            ("onnx",),
            extra="ort-openvino",
        ),
        Entry(
            "ort-cuda",
            f"{_PACKAGE}.onnxruntime_cuda:OrtCuda",
            "edgepipe env create ort-cuda",
            ("onnx",),
            device="GPU",
            extra="cuda",
        ),
        Entry(
            "torch",
            f"{_PACKAGE}.torch:Torch",
            'pip install "edgepipe[export]"',
            ("pt2",),
            extra="export",
        ),
    )
}


def names() -> list[str]:
    """Every runner's name, built-in ones first, installed or not."""
    return list(BUILT_IN) + sorted(set(_plugins()) - set(BUILT_IN))


def formats(name: str) -> tuple[str, ...]:
    """The model formats that a runner takes, best first."""
    entry = _entry(name)
    if entry.formats is not None:
        return entry.formats
    try:
        return get(name).formats
    except AttributeError as error:
        raise RunnerUnavailable(f"runner {name} ({entry.path}) is no runner: {error}") from error


def device(name: str) -> str:
    """The device that a runner runs on unless told otherwise."""
    return _entry(name).device


def get(name: str) -> Runner:
    """Import a runner and return it.

    Raises ``RunnerUnavailable`` for an unknown name, with the nearest known one, and for a
    plug-in that fails to import.
    """
    entry = _entry(name)
    module, _, attribute = entry.path.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except (Exception, SystemExit) as error:  # whatever a plug-in does, the others go on
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunnerUnavailable(
            f"runner {name} ({entry.path}) fails to import: {reason}"
        ) from error


def missing(name: str, error: ImportError) -> RunnerUnavailable:
    """The error for a runner whose library is not installed (or broken), with the remedy."""
    return RunnerUnavailable(f"{error}; {BUILT_IN[name].install}")


def _entry(name: str) -> Entry:
    if name in BUILT_IN:
        return BUILT_IN[name]
    plugins = _plugins()
    if name in plugins:
        return Entry(name, plugins[name].value, "", None)
    known = names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise RunnerUnavailable(f"no runner named {name!r}: {hint}")


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
