"""JSON documents: one way to write them, one to read what anybody may have written."""

from __future__ import annotations

import json
from typing import Any, NoReturn

LARGEST = 1 << 64


def text(document: Any, indent: int = 2, sort_keys: bool = False) -> str:
    """A document as JSON. Raises ``ValueError`` for NaN and infinities, which JSON has not."""
    return json.dumps(document, indent=indent, sort_keys=sort_keys, allow_nan=False) + "\n"


def parse(data: str | bytes) -> dict[str, Any]:
    """The object that a document holds.

    Raises ``ValueError`` for what is none, and for what readers take differently or choke on:
    NaN and infinities, numbers beyond 64 bits, a key twice, halves of characters, and more
    nesting than Python follows.
    """
    try:
        found = json.loads(
            data,
            parse_constant=_refuse,
            parse_float=_float,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
        if not isinstance(found, dict):
            raise ValueError(f"a JSON object was expected, not {type(found).__name__}")
        marker = b"\\ud" if isinstance(data, bytes) else "\\ud"
        if marker in data.lower():  # pyright: ignore[reportOperatorIssue]
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return found


def reason(error: Exception) -> str:
    """What is wrong with a document, in one line: of what pydantic found the first."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= LARGEST:
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is in it twice")
    return made
