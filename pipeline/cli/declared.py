"""Commands whose options are a request's fields, made when a command is called or asked for help.

A command is a function of the request and of what only the command line has: how the result is
shown. Nothing is imported for the list of commands: a request's fields are looked at only by the
command that is called.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

if TYPE_CHECKING:
    from ..settings.options import Help, Request

MAY_REPEAT = "may be repeated"
METAVARS = {int: "N", float: "N", Path: "PATH"}


def declared(request: str) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a function a command: its options are a request's fields, and its own parameters.

    ``request`` is "module:Class" under ``settings``. The function's first parameter is a mapping
    of what was said, for the public function that takes it.
    """

    def decorate(run: Callable[..., None]) -> Callable[[], None]:
        def listed() -> None:
            """Stand for the command in a list of commands."""

        listed.__name__, listed.__doc__ = run.__name__, run.__doc__
        vars(listed)["declared"] = (request, run)
        return listed

    return decorate


def command_of(listed: Callable[..., Any] | None) -> Callable[..., None] | None:
    """What typer makes the whole command of, ``None`` for one that wasn't ``declared``."""
    if listed is None or "declared" not in vars(listed):
        return None
    request, run = vars(listed)["declared"]
    from ..settings import refusal

    module, _, name = request.partition(":")
    kind: type[Request] = getattr(import_module(f"..settings.{module}", __package__), name)
    helps, options = kind.helps(), list(_options(kind))
    _, *own = signature(run, eval_str=True).parameters.values()
    own = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own]

    def call(**given: Any) -> None:
        said = {one.name: given.pop(one.name) for one in options}
        said = {
            name: _value(value, helps[name]) for name, value in said.items() if value is not None
        }
        token = refusal.CALLER.set("command line")
        try:
            run(said, **given)
        finally:
            refusal.CALLER.reset(token)

    vars(call)["__signature__"] = Signature([*options, *own])
    call.__annotations__ = {one.name: one.annotation for one in [*options, *own]}
    call.__name__, call.__doc__ = run.__name__, run.__doc__
    return call


def _options(kind: type[Request]) -> Iterator[Parameter]:
    helps = kind.helps()
    for name, field in kind.model_fields.items():
        told = helps.get(name)
        if told is None or told.flag == "":
            continue
        taken, repeated = _taken(field.annotation)
        text = _text(told, field, repeated)
        required = field.is_required()
        if told.argument:
            metavar = told.metavar or name.upper()
            settings = typer.Argument(help=text, metavar=metavar, show_default=False)
        else:
            names = [told.flag or "--" + name.replace("_", "-")]
            names += [told.short] if told.short else []
            metavar = None if taken is bool else told.metavar or METAVARS.get(taken, "TEXT")
            settings = typer.Option(*names, help=text, metavar=metavar, show_default=False)
        annotation = Annotated[taken if required else taken | None, settings]
        default = Parameter.empty if required else None
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _taken(annotation: Any) -> tuple[Any, bool]:
    """What the command line reads for a field of this type, and whether it may be repeated.

    Ranges and choices are checked where the other layers' are: text and numbers are enough here.
    """
    if get_origin(annotation) is Annotated:
        return _taken(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [_taken(one) for one in get_args(annotation) if one is not type(None)]
        return kinds[0] if len(set(kinds)) == 1 else (str, False)
    if get_origin(annotation) is tuple:
        return list[_taken(get_args(annotation)[0])[0]], True
    if get_origin(annotation) is Literal:
        return str, False
    return (annotation if annotation in (bool, int, float, Path) else str), False


def _text(told: Help, field: Any, repeated: bool) -> str:
    """The help's line: what it is, what holds without it, and whether there can be several."""
    without = told.unset or _shown(None if field.is_required() else field.default, told)
    line = told.text
    if without:
        line = f"{line.removesuffix('.')} [default: {without}]{'.' if line else ''}".strip()
    if repeated and not told.argument:
        line = f"{line.removesuffix('.')}; {MAY_REPEAT}."
    return line


def _shown(default: Any, told: Help) -> str:
    """A default as it is written on the command line; what is only ever put on needs no word."""
    if isinstance(default, bool):
        return ("yes" if default else "no") if "/" in (told.flag or "") else ""
    if default is None or default == ():
        return ""
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _value(value: Any, told: Help) -> Any:
    if told.off:
        return not value
    return tuple(value) if isinstance(value, list) else value
