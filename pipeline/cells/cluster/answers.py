"""What a worker says of a cell in a shard, and how that is kept for a run that goes on later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....runners import documents
from ....runners.base import RunnerError
from ....runners.bundles import npz
from ....runners.workers import answers
from ....runners.workers.answers import Loaded
from ...storage.goldens import packed

ABOUT = "about"


@dataclass(frozen=True)
class Answer:
    """Of one cell: the session that was loaded, facts about its machine, arrays by name.

    Or the ``error``, with nothing else.
    """

    loaded: Loaded | None = None
    host: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    error: RunnerError | None = None

    @property
    def kind(self) -> dict[str, Any]:
        """What has to be the same for all shards of a cell, wherever they are computed."""
        if self.loaded is None:
            return {}
        placed = asdict(self.loaded.placement)
        facts = {name: self.host.get(name) for name in ("machine", "cpu_flags", "emulator")}
        return {"version": self.loaded.runner_version, **placed, **facts}


def to_bytes(given: Sequence[Answer]) -> bytes:
    """Answers without an error as a compressed ``.npz``."""
    arrays: dict[str, np.ndarray] = {}
    about = []
    for number, one in enumerate(given):
        assert one.loaded
        arrays |= {f"{number}/{name}": array for name, array in one.arrays.items()}
        about.append({"loaded": asdict(one.loaded), "host": one.host})
    text = json.dumps(about, allow_nan=False)
    return packed({**arrays, ABOUT: np.frombuffer(text.encode(), np.uint8)})


def load(path: Path) -> list[Answer] | None:
    """What ``to_bytes`` wrote; ``None`` for whatever can't be read, which is computed anew."""
    try:
        arrays = npz.read(path)
        about = documents.parse(b'{"cells": ' + arrays.pop(ABOUT).tobytes() + b"}")["cells"]
        return [
            Answer(
                answers.loaded(one["loaded"]),
                one["host"],
                {
                    name.removeprefix(f"{number}/"): array
                    for name, array in arrays.items()
                    if name.startswith(f"{number}/")
                },
            )
            for number, one in enumerate(about)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
