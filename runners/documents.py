"""JSON that somebody handed over, read strictly: what no writer of ours writes is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

LARGEST = 1 << 64


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ``ValueError`` for what is none, and for what readers take differently or choke on:
    NaN and infinities, numbers beyond 64 bits, a key twice, halves of characters, and more
    nesting than Python follows.
    """
    try:
        value = json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_float,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
        marker = b"\\ud" if isinstance(text, bytes) else "\\ud"
        if marker in text.lower():  # pyright: ignore[reportOperatorIssue]
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


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
        raise ValueError("a key is in it twice")
    return made
