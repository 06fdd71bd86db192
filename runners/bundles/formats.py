"""Model formats: whether reading one can run code, and what a file must be to be handed on.

ONNX and OpenVINO's IR are data. An exported program of torch (``pt2``) falls back to pickle for a
part of what it holds, and of a plug-in's format nothing is known: reading those can run code. They
are read where they were made by the user's own command, and never come out of a bundle.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

from .external import Beside, reaches_out

ONNX, OPENVINO_IR = "onnx", "openvino-ir"
# Format -> the suffixes of its files, the one that a runner is pointed to first.
# An ONNX model of over 2 GiB has its tensors beside it.
DATA_ONLY = {ONNX: (".onnx", ".data"), OPENVINO_IR: (".xml", ".bin")}
SHOWN = 64


def can_run_code(kind: str) -> bool:
    """Whether reading a model of this format can run code. What isn't known can."""
    return kind not in DATA_ONLY


def kind_of(main: Path) -> str:
    """The format of a model by the suffix of its main file; the suffix itself if none is known."""
    for kind, suffixes in DATA_ONLY.items():
        if main.suffix == suffixes[0]:
            return kind
    return main.suffix.lstrip(".")


def misnamed(kind: str, names: Sequence[str]) -> str | None:
    """What is wrong with the names of a model's files, the main one first."""
    suffixes = DATA_ONLY[kind]
    stems = {name.rpartition(".")[0] for name in names}
    found = tuple(Path(name).suffix for name in names)
    if found != suffixes[: len(found)] or len(stems) != 1:
        return f"{', '.join(names)} are no files of {kind}"
    return None


def problem(files: Sequence[Path]) -> str | None:
    """Why a model's files, the main one first, must not be handed to a loader; ``None`` if fine.

    For formats that are data only: the main file is what its suffix says, and reaches for no
    other file than those. One line that starts with the file's name.
    """
    main = files[0]
    kind = kind_of(main)
    if kind not in DATA_ONLY:
        return None
    try:
        with main.open("rb") as file:
            if not main.stat().st_size:
                return f"{main.name}: is empty"
            # Left to be closed by itself: a profiler that looks at frames (Dask's, a debugger)
            # may still hold a part of it, and closing it would fail then.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            found = _onnx(data, files[1:]) if kind == ONNX else _ir(data)
    except OSError as error:
        return f"{main.name}: {error.strerror}"
    return f"{main.name}: {found}" if found else None


def _onnx(data: mmap.mmap, others: Sequence[Path]) -> str | None:
    beside = [Beside(path.name, path.stat().st_size) for path in others]
    with memoryview(data) as view:
        return reaches_out(view, beside[0] if beside else None)


def _ir(data: mmap.mmap) -> str | None:
    """IR is XML that names no files; a document type could define entities that do."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith((b"<?xml", b"<net")) or data.find(b"<net") < 0:
        return f"is no OpenVINO IR: it begins with {start[:SHOWN]!r}"
    if data.find(b"<!DOCTYPE") >= 0 or data.find(b"<!ENTITY") >= 0:
        return "defines entities, which no IR does"
    return None
