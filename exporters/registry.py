"""Which exporters there are: name -> where the class is. Importing this loads none of them.

Third parties add theirs with an entry point in the group ``edgepipe.exporters``. One that
writes another format than ONNX goes by that format's name.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from .base import Exporter, MissingLibrary

GROUP = "edgepipe.exporters"
ONNX = "onnx"
_PACKAGE = __name__.rpartition(".")[0]
BUILT_IN = {
    "onnx-dynamo": f"{_PACKAGE}.onnx:OnnxDynamo",
    "onnx-torchscript": f"{_PACKAGE}.onnx:OnnxTorchScript",
    "openvino-ir": f"{_PACKAGE}.openvino_ir:OpenVinoIr",
}
# What the names of a workspace's files may end in; these two are other stages' own.
_SUFFIX = re.compile(r"\.[a-z0-9][\w.-]*")
_TAKEN = {".onnx", ".pt2"}


def names() -> list[str]:
    """Every exporter's name, built-in ones first, installed or not."""
    return list(BUILT_IN) + sorted(set(_plugins()) - set(BUILT_IN))


def origin(name: str) -> str | None:
    """The distribution that brings a plug-in, with its version; ``None`` for edgepipe's own."""
    point = None if name in BUILT_IN else _plugins().get(name)
    return f"{point.dist.name} {point.dist.version}" if point and point.dist else None


def get(name: str) -> Exporter:
    """Import an exporter. Raises ``MissingLibrary`` for a plug-in that fails or is none."""
    path = BUILT_IN.get(name) or _plugins()[name].value
    module, _, attribute = path.partition(":")
    try:
        exporter = getattr(import_module(module), attribute)()
        broken = _breach(exporter, name)
    except (Exception, SystemExit) as error:  # whatever a plug-in does, it is one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MissingLibrary(f"exporter {name} ({path}) fails to import: {reason}") from error
    if broken:
        raise MissingLibrary(f"exporter {name} ({path}) breaks the protocol: {broken}")
    return exporter


def _breach(exporter: Exporter, name: str) -> str | None:
    """How an object is not the ``Exporter`` called ``name``; ``None`` if it is."""
    if exporter.name != name:
        return f"its name is {exporter.name!r}"
    if not callable(exporter.export):
        return "its export can't be called"
    if exporter.format == ONNX:
        return None if exporter.suffixes == (".onnx",) else "a file of onnx ends in .onnx"
    if exporter.format != name:
        return f"it writes {exporter.format!r}, which has to be its name"
    for suffix in exporter.suffixes:
        if not _SUFFIX.fullmatch(suffix) or suffix in _TAKEN:
            return f"its files can't end in {suffix!r}"
    return None if exporter.suffixes else "it names no files"


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
