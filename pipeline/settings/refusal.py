"""What is said of a value that is refused: which key, where it stands, what would be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel, ValidationError

from .nearest import nearest

# Who said what no file and no variable says: a call of the Python API, unless told otherwise.
CALLER = ContextVar("caller", default="argument")


def kebab(name: str) -> str:
    """How a key is written in TOML."""
    return name.replace("_", "-")


def explained(
    error: ValidationError,
    layers: Sequence[tuple[str, Mapping[str, Any]]],
    sections: Mapping[str, type[BaseModel]],
    above: tuple[str, ...] = (),
) -> str:
    """One line on what is wrong: the key, in which layer it stands, and the nearest valid one.

    ``sections`` are the tables by name, the outermost one under "". ``above`` are the tables that
    the error's own are in.
    """
    # A misspelled key is reported as unknown and as missing; the former says more.
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    path = [*above, *(str(part).replace("-", "_") for part in first["loc"])]
    missing = first["type"] == "missing"
    absent = [path.pop()] if missing else []
    # A union adds the name of the alternative that was tried; that is no key of the user's.
    while len(path) > 1 and not any(_has(layer, path) for _, layer in layers):
        path.pop()
    key = ".".join(kebab(part) for part in (*path, *absent))
    origin = next((name for name, layer in reversed(layers) if _has(layer, path)), "")
    place = f"{key} ({origin})" if origin else key
    if missing:
        return f"{place}: missing"
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return f"{place}: {message}, got {first['input']!r}"
    section = sections[""]
    for part in path[:-1]:
        section = sections.get(part, section)
    known = [kebab(name) for name in section.model_fields]
    return f"unknown key {place}; {nearest(kebab(path[-1]), known)}"


def _has(layer: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(layer, dict) or part not in layer:
            return False
        layer = layer[part]
    return True
