"""For the site: what ``@takes(Request)`` makes of a function, which its source doesn't show.

The keywords of such a function are the fields of its request. mkdocstrings reads sources, where
there is a single parameter; here it is told the real ones, with their types, defaults and help.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import griffe


class Options(griffe.Extension):
    """Gives functions that take a request the parameters that a caller sees."""

    def on_function(self, *, func: griffe.Function, loader: Any, **_: Any) -> None:
        """Replace the parameters, and tell of them below the docstring."""
        if not any(str(one.value).startswith("takes(") for one in func.decorators):
            return
        run = getattr(import_module(func.parent.path), func.name)
        kind = run.request
        parameters = list(signature(run).parameters.values())
        func.parameters = griffe.Parameters(
            *(
                griffe.Parameter(
                    one.name,
                    kind=griffe.ParameterKind(one.kind.description),
                    default=None if one.default is one.empty else _shown(one.default),
                )
                for one in parameters
            )
        )
        told = kind.helps()
        rows = [
            griffe.DocstringParameter(
                one.name,
                annotation=_type(one.annotation),
                value=None if one.default is one.empty else _shown(one.default),
                description=" ".join(_about(told[one.name]))
                if one.name in told
                else "What is told how far it is.",
            )
            for one in parameters
        ]
        if func.docstring:
            func.docstring.parsed.append(griffe.DocstringSectionParameters(rows))


def _about(told: Any) -> Iterator[str]:
    if told.text:
        yield told.text
    if told.unset:
        yield f"Without it: {told.unset}."


def _shown(value: Any) -> str:
    if isinstance(value, Path):
        return repr(str(value))
    plain = value is None or isinstance(value, bool | int | float | str | tuple)
    return repr(value) if plain else type(value).__name__


def _type(annotation: Any) -> str:
    """A type as one would write it, without what pydantic checks beside it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inside[0])
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type, inside))
    if origin is tuple:
        return f"tuple[{', '.join('...' if one is ... else _type(one) for one in inside)}]"
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inside))}]"
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
