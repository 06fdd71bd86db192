"""JSON documents: one way to write them, one to read what anybody may have written."""

from __future__ import annotations

import json
from typing import Any


def text(document: Any, indent: int = 2, sort_keys: bool = False) -> str:
    """A document as JSON. Raises ``ValueError`` for NaN and infinities, which JSON has not."""
    return json.dumps(document, indent=indent, sort_keys=sort_keys, allow_nan=False) + "\n"


def parse(data: str | bytes) -> dict[str, Any]:
    """The object that a document holds.

    Raises ``ValueError`` that says what is wrong: no JSON, no object, a number that JSON has not,
    a key that stands there twice, nesting without end.
    """
    try:
        found = json.loads(data, parse_constant=_refuse, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object was expected, not {type(found).__name__}")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found
