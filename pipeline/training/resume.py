"""The state of a training on disk, for going on after a kill."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from ..storage.atomic import write_whole
from ..storage.manifest import digest


class TrainingState:
    """What a killed run left: read only if it is of the same training, replaced atomically."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = settings

    def load(self) -> dict[str, Any] | None:
        """The state, or ``None`` where there is none. Raises ``UsageError`` for another's."""
        import torch

        if not self._path.is_file():
            return None
        try:
            state = torch.load(self._path, weights_only=True)
            settings = json.loads(state["settings"])
        except Exception as error:  # torch raises whatever a damaged file leads to
            raise InputError(
                f"{self._path}: not the state of a training; --restart starts over"
            ) from error
        if digest(settings) != digest(self._settings):
            other = [
                key
                for key, value in json.loads(json.dumps(self._settings, allow_nan=False)).items()
                if settings.get(key) != value
            ]
            raise UsageError(
                f"{self._path}: left by a training with another {', '.join(other)}; "
                "--restart starts over, another --output keeps it"
            )
        return state

    def save(self, **state: Any) -> None:
        """Replace the state, whole or not at all."""
        import torch

        buffer = io.BytesIO()
        torch.save({**state, "settings": json.dumps(self._settings, allow_nan=False)}, buffer)
        write_whole(self._path, buffer.getvalue())

    def remove(self) -> None:
        """The training is done."""
        self._path.unlink(missing_ok=True)
