"""The libraries of the extra ``registry``, imported where they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import MissingLibrary


def library(name: str) -> Any:
    """A module of one of them. Raises ``MissingLibrary``, which says what installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[registry]"') from error
