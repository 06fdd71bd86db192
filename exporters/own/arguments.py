"""Keyword arguments for what makes a module: how they are written, and whether they fit.

    NAME=VALUE      model_name=resnet18  pretrained=true  layers=[2,2]

A value is JSON; what isn't any is text as it stands.
"""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Callable, Iterable, Mapping
from typing import Any

FORM = "NAME=VALUE, such as pretrained=true"
# Text that its writer took for a value: "False" is true in Python, as every text is.
SPELLED = {"True": "true", "False": "false", "None": "null"}
MOST_OF_A_DEFAULT = 30


def parse(text: str) -> tuple[str, Any]:
    """The name and the value. Raises ``ValueError`` that says what is wrong with it."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"an argument is {FORM}")
    if value in SPELLED:
        raise ValueError(f'write {name}={SPELLED[value]}, or {name}="{value}" for text')
    try:
        found = json.loads(value, parse_constant=_refuse)
        json.dumps(found, allow_nan=False)  # a number too large for JSON is read as infinity
    except (ValueError, RecursionError) as error:
        if value.startswith(("[", "{", '"')):
            raise ValueError(f"the value of {name} begins like JSON and is none") from error
        return name, value
    return name, found


def read(texts: Iterable[str]) -> dict[str, Any]:
    """Values by name. Raises ``ValueError`` for one that is given twice, and as ``parse`` does."""
    found: dict[str, Any] = {}
    for text in texts:
        name, value = parse(text)
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = value
    return found


def misfit(called: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
    """Why a callable can't be called with these alone, and what it takes; ``None`` if it can.

    What says nothing about its parameters is taken to be right.
    """
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(**arguments)
    except TypeError as error:
        taken = ", ".join(map(_shown, signature.parameters.values())) or "nothing"
        return f"{error}; it takes {taken} (--arg NAME=VALUE)"
    return None


def shown(arguments: Mapping[str, Any]) -> list[str]:
    """Each as it is written, so that ``parse`` gives it back."""
    return [f"{name}={_written(value)}" for name, value in arguments.items()]


def _written(value: Any) -> str:
    """JSON, without the quotes of a text that is read as such without them."""
    try:
        plain = isinstance(value, str) and parse(f"x={value}")[1] == value
    except ValueError:
        plain = False
    return value if plain else json.dumps(value)


def _shown(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}"
    default = repr(parameter.default)
    return f"{parameter.name}={default if len(default) <= MOST_OF_A_DEFAULT else '…'}"


def _refuse(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")
