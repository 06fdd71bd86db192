"""edgepipe itself as a wheel, packed from the files that are running.

Not from where it was installed from, which may be gone, offline, or changed since; and not by
a path to this environment, which would take its libraries along. The same three packages and
the same metadata are there whether it is a wheel, editable, or a source tree, and they are pure
Python: what runs here runs on every Python that the metadata allows.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("pipeline", "exporters", "runners")


def pack(folder: Path) -> Path:
    """Write the wheel into ``folder``; returns its path."""
    here = distribution("edgepipe")
    info = f"edgepipe-{here.version}.dist-info"
    files = {
        f"edgepipe/{name}/{path.relative_to(_package(name)).as_posix()}": path.read_bytes()
        for name in PACKAGES
        for path in sorted(_package(name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    # A source tree that is being worked in has an egg-info, which calls the same thing PKG-INFO.
    metadata = here.read_text("METADATA") or here.read_text("PKG-INFO")
    assert metadata
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/entry_points.txt"] = (here.read_text("entry_points.txt") or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = record(files.items(), f"{info}/RECORD")
    path = folder / f"edgepipe-{here.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def record(files: Iterable[tuple[str, bytes]], own: str) -> bytes:
    """The RECORD of files with their paths; ``own`` is its own path, which has no hash."""
    lines = [f"{name},sha256={_record_hash(data)},{len(data)}" for name, data in files]
    return "\n".join([*lines, f"{own},,", ""]).encode()


def runners_digest() -> str:
    """SHA-256 over the runners' sources: what a worker in the environment executes."""
    digest = hashlib.sha256()
    package = _package("runners")
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _record_hash(data: bytes) -> str:
    """A hash as RECORD has them: URL-safe base64 without padding (PyPA, binary distributions)."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _package(name: str) -> Path:
    spec = find_spec(f"edgepipe.{name}")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent
