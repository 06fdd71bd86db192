"""What is installed here of the runtimes, read from package metadata; nothing is imported.

Wheels that own the same import folder overwrite each other's files without a word, and pip
does not look. Their RECORD files still say what each of them believes to have there.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    PackagePath,
    distributions,
    version,
)
from pathlib import Path
from typing import Any

FOLDERS = ("onnxruntime", "onnxruntime_ep_openvino", "openvino")
MOST_NAMED = 3
TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
# libopenvino.so.2641 and libopenvino.so.2026.4.1 are the names of the same release's library.
_OPENVINO_LIBRARY = re.compile(r"libopenvino\.so\.(?:(\d\d)(\d)(\d)|(\d{4}\.\d+\.\d+))$")


def facts() -> dict[str, Any]:
    """The distributions that own each runtime's import folder, and what is wrong with them.

    ``owners`` maps a folder to its distributions: ``name``, ``version``, ``damaged`` (files
    that are missing or of another size than the wheel's) and ``openvino``, the release of
    OpenVINO that it brings along.
    """
    owners: dict[str, list[dict[str, Any]]] = {folder: [] for folder in FOLDERS}
    for folder in FOLDERS:
        where: Path | None = None
        for distribution, package in _owners(folder):
            place = Path(str(distribution.locate_file(package)))
            # What lies behind it on the path is not imported, and overwrites nothing.
            where = where or place
            if place == where:
                owners[folder].append(_about(distribution, folder))
    return {"owners": owners, "telemetry": _telemetry(owners["onnxruntime"])}


def _owners(folder: str) -> Iterator[tuple[Distribution, str]]:
    package = f"{folder}/__init__.py"
    seen = set()
    for distribution in distributions():
        # Searched as text first: torch's RECORD alone has over ten thousand lines to parse.
        record = distribution.read_text("RECORD") or ""
        if f"\n{package}," in f"\n{record}":
            place = str(distribution.locate_file(package))
            if (distribution.name, place) not in seen:
                seen.add((distribution.name, place))
                yield distribution, package


def _about(distribution: Distribution, folder: str) -> dict[str, Any]:
    files = distribution.files or []
    return {
        "name": distribution.name,
        "version": distribution.version,
        "damaged": [str(file) for file in files if is_damaged(file)][:MOST_NAMED],
        "openvino": distribution.version if folder == "openvino" else _openvino_release(files),
    }


def is_damaged(file: PackagePath) -> bool:
    """Whether a distribution's file is missing, or of another size than the wheel's."""
    if file.suffix == ".pyc" or file.size is None:  # made after the installation, or RECORD itself
        return False
    try:
        return os.stat(str(file.locate())).st_size != file.size
    except OSError:
        return True


def _openvino_release(files: list[PackagePath]) -> str | None:
    for file in files:
        if found := _OPENVINO_LIBRARY.match(file.name):
            year, release, patch, whole = found.groups()
            return whole or f"20{year}.{release}.{patch}"
    return None


def _telemetry(owners: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether this onnxruntime knows the switch, hence collects, and how the switch stands."""
    capable = any(
        _contains(Path(str(file.locate())), TELEMETRY_SWITCH.encode())
        for distribution, _ in (_owners("onnxruntime") if owners else ())
        for file in distribution.files or []
        if file.match("onnxruntime/capi/onnxruntime_pybind11_state*")
    )
    return {"capable": capable, "switch": os.environ.get(TELEMETRY_SWITCH)}


def _contains(path: Path, text: bytes) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(text) >= 0
    except (OSError, ValueError):  # not there, or empty
        return False


def versions(*distributions: str) -> dict[str, str | None]:
    """Installed versions, without importing anything; ``None`` for what is not installed."""
    found: dict[str, str | None] = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
