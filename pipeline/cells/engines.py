"""What a runner builds when it loads a model, kept with the model until something of it changes.

An engine is native code that was timed on one device: it is good for the very file, settings,
libraries and device that it was built for, which its key is made of, and it is read again only
where this user's own run has built it (see ``made_here``).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...runners.base import Settings
from ...runners.machine.files import sha256_file
from ...runners.workers.answers import Loaded
from ...runners.workers.launch import Worker
from ..storage import made_here
from ..storage.atomic import write_whole
from ..storage.manifest import digest
from ..storage.workspace import ENGINES, MANIFEST

ABOUT = "about.json"
# Of a file in a ZIP archive: the earliest there can be, so that equal engines are equal archives.
TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Engine:
    """A runner's files by name, and how long building them took, in ms."""

    files: Mapping[str, bytes]
    build_ms: float


def load(worker: Worker, runner: str, files: Mapping[str, Path], settings: Settings) -> Loaded:
    """``Worker.load`` with the engine that is kept beside the model, built first if there is none.

    The times of loading are always those with an engine that is there. Beside a model that is in
    no workspace nothing is kept. Raises as ``Worker.load`` does, and ``WorkspaceError`` where the
    engine can't be written.
    """
    target = worker.describe(runner).builds_for.get(settings.device)
    place = next(iter(files.values())).parent
    if target is None:  # it says itself why it isn't available
        return worker.load(runner, files, settings)
    about = {
        "runner": runner,
        "built_for": target,
        "files": {name: sha256_file(path) for name, path in files.items()},
        # Threads are the CPU's, and how many runs are under way is no matter of the engine.
        "settings": {**asdict(settings), "threads": None, "streams": None, "cache": None},
    }
    path = place / ENGINES / f"{digest(about)}.zip"

    def keep(engine: Engine) -> Engine:
        if (place / MANIFEST).is_file():
            write(path, engine, about)
        return engine

    engine = read(path)
    if engine is None:
        built = worker.load(runner, files, settings, {})
        engine = keep(Engine(worker.cache(), built.load_ms))
    loaded = worker.load(runner, files, settings, engine.files)
    if not loaded.from_cache and engine.files:  # the runner refuses it, and has built another one
        engine = keep(Engine(worker.cache(), loaded.load_ms))
    return replace(loaded, build_ms=engine.build_ms)


def read(path: Path) -> Engine | None:
    """An engine that was built here and is whole; ``None`` for any other, which is built anew."""
    try:
        if not path.is_file() or not made_here.is_noted(sha256_file(path)):
            return None
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(ABOUT))
            files = {name: archive.read(name) for name in archive.namelist() if name != ABOUT}
        return Engine(files, float(about["build_ms"]))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def write(path: Path, engine: Engine, about: Mapping[str, Any]) -> None:
    """Keep an engine, and note that it was built here. Those of files that are gone go.

    Raises ``WorkspaceError``.
    """
    described = json.dumps(
        {**about, "build_ms": engine.build_ms}, indent=1, sort_keys=True, allow_nan=False
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {ABOUT: described.encode(), **engine.files}.items():
            archive.writestr(zipfile.ZipInfo(name, TIME), data)
    data = buffer.getvalue()
    write_whole(path, data)
    made_here.note_file(hashlib.sha256(data).hexdigest())
    for other in path.parent.glob("*.zip"):
        if any(about["files"].get(name, sha) != sha for name, sha in _files(other).items()):
            other.unlink(missing_ok=True)


def _files(path: Path) -> Mapping[str, str]:
    """The SHA-256 of the files that an engine was built of, by name; none of what is no engine."""
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(json.loads(archive.read(ABOUT))["files"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return {}
