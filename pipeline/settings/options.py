"""What an option is: one field that becomes a flag, a key, a variable and a row of the reference.

A section's field says its name, type and default, and ``Help`` the rest. ``cli`` makes the flag
of it, ``load`` the key of ``edgepipe.toml`` and the variable, ``reference`` the documentation; a
command's public function takes it as a keyword.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    field_validator,
)

from ...exporters.own import arguments
from ..errors import UsageError
from ..progress import SILENT, Progress
from ..storage.arrays import ArrayInput
from .placement import required_share
from .refusal import CALLER, explained, kebab

P = ParamSpec("P")
Asked = TypeVar("Asked", bound="Request")
R = TypeVar("R")


@dataclass(frozen=True)
class Help:
    """What is told of an option, and how it is spelled on the command line.

    ``flag`` is the long one, made of the field's name unless said otherwise and "" where there is
    none: a key only. With ``off`` it puts off what is on. ``short`` is the one letter, ``metavar``
    what stands for the value. An ``argument`` is told by its place. ``unset`` is what happens
    without it, where the default doesn't say so.
    """

    text: str
    flag: str | None = None
    short: str = ""
    metavar: str | None = None
    argument: bool = False
    off: bool = False
    unset: str = ""


class Section(BaseModel):
    """A table of the configuration: only known keys, frozen. ``table`` is its name."""

    table: ClassVar[str] = ""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=kebab, populate_by_name=True
    )

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """No path and no command can hold one."""
        if any("\0" in str(one) for one in (value if isinstance(value, tuple) else [value])):
            raise ValueError("a NUL character can't be part of it")
        return value

    @classmethod
    def helps(cls) -> dict[str, Help]:
        """The options among the fields, each with what is told of it."""
        return {
            name: found
            for name, field in cls.model_fields.items()
            for found in field.metadata
            if isinstance(found, Help)
        }


class Request(Section):
    """What a command is asked: the keys of its table, and what only a call can say."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    progress: Annotated[Progress, SkipValidation] = SILENT

    @classmethod
    def table_fields(cls) -> Mapping[str, Any]:
        """The fields that are keys of the command's table, too."""
        table = next((one for one in cls.__mro__ if vars(one).get("table")), None)
        return table.model_fields if table and issubclass(table, Section) else {}

    def flags(self, **more: Any) -> dict[str, Any]:
        """What was said, as ``load`` takes it. ``more`` are further tables and keys."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        top = {name: said[name] for name in ("workspace", "model") if name in said}
        nested = {name: value for name, value in said.items() if name in self.table_fields()}
        return {**top, self.table: nested, **more}


class InWorkspace(Request):
    """A request about what is in a workspace."""

    workspace: Annotated[
        Path | None,
        Help("Where artifacts live.", short="-w", metavar="DIR", unset="artifacts"),
    ] = None


class OfModel(InWorkspace):
    """A request about one model of a workspace."""

    model: Annotated[
        str | None,
        Help("", short="-m", metavar="NAME", unset="the only one there, or mobilenet_v2"),
    ] = None


def takes(request: Callable[P, Asked]) -> Callable[[Callable[[Asked], R]], Callable[P, R]]:
    """Make a function of a request one of the request's fields, as keywords.

    So an option is defined once, and an editor completes it and a type checker knows its type in
    every call. Fields that are no keyword only (``Field(kw_only=False)``) may be told by their
    place. The function raises ``UsageError`` for what isn't a value of its type.
    """
    kind: type[Request] = request  # pyright: ignore[reportAssignmentType]
    by_place = [name for name, field in kind.model_fields.items() if field.kw_only is False]

    def decorate(run: Callable[[Asked], R]) -> Callable[P, R]:
        @wraps(run)
        def call(*args: P.args, **given: P.kwargs) -> R:
            named = dict(zip(by_place, args, strict=False))
            if len(args) > len(by_place):
                takes = f"{', '.join(by_place)} alone" if by_place else "nothing"
                raise TypeError(
                    f"{run.__name__}() takes {takes} by its place, and got {len(args)} values: "
                    "options go by their names"
                )
            if twice := [name for name in named if name in given]:
                raise TypeError(f"{run.__name__}() got multiple values for argument {twice[0]!r}")
            return run(asked(kind, **named, **given))

        vars(call)["__signature__"] = signature(run).replace(parameters=_parameters(kind))
        vars(call)["request"] = kind
        return call

    return decorate


def asked(kind: type[Request], **given: Any) -> Any:
    """A request of what was given; ``None`` is what wasn't. Raises ``UsageError``."""
    said = {name.replace("-", "_"): value for name, value in given.items() if value is not None}
    try:
        return kind(**said)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0]).replace("-", "_")  # an alias, or the field's own
        a_key = name in kind.table_fields() or (kind.table and name not in kind.model_fields)
        layer, above = ({kind.table: said}, (kind.table,)) if a_key else (said, ())
        sections = {"": kind, kind.table: kind}
        raise UsageError(explained(error, [(CALLER.get(), layer)], sections, above)) from error


def _parameters(kind: type[Request]) -> list[Parameter]:
    found = []
    for name, field in kind.model_fields.items():
        place = (
            Parameter.POSITIONAL_OR_KEYWORD if field.kw_only is False else Parameter.KEYWORD_ONLY
        )
        default = Parameter.empty if field.is_required() else field.default
        found.append(Parameter(name, place, default=default, annotation=field.annotation))
    return sorted(found, key=lambda one: (one.kind, one.default is not Parameter.empty))


def fraction(text: str) -> float:
    """ "5%" as 0.05. Raises ``ValueError`` for anything else."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < float("inf"):
        raise ValueError('not a percentage such as "5%"')
    return value


def seconds(text: str) -> float:
    """ "10m" as 600. Raises ``ValueError`` for anything else than a number and s, m or h."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError('not a time such as "90s", "10m" or "1h"')
    return value


def pair(text: str) -> tuple[str, str]:
    """ "batch=1" as ("batch", "1"). Raises ``ValueError`` for anything else."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError('not a NAME=VALUE such as "batch=1"')
    return name, value


def input_size(given: Any) -> Any:
    """ "480x640" as (480, 640), and the side of a square as a number.

    Raises ``ValueError`` for what is no size; what isn't text or a list is left as it is.
    """
    if not isinstance(given, str | list | tuple):
        return given
    try:
        found = list(map(int, given.split("x") if isinstance(given, str) else given))
    except (ValueError, TypeError):
        found = []
    if len(found) not in (1, 2) or not all(SIDES[0] <= side <= SIDES[1] for side in found):
        least, most = SIDES
        raise ValueError(f"not a side, or HEIGHTxWIDTH, of {least} to {most:,} pixels each")
    return found[0] if len(set(found)) == 1 else tuple(found)


def workers_of(text: str) -> int | None:
    """How many workers of this machine's "local:2" asks for, ``None`` for a scheduler's address.

    Raises ``ValueError`` for what is neither.
    """
    if found := LOCAL_CLUSTER.fullmatch(text):
        return int(found[1])
    if text.startswith("local:") or not SCHEDULER.fullmatch(text):
        raise ValueError(
            "neither local:N (workers of this machine, 1 to 999) nor a Dask scheduler's address, "
            "such as tcp://10.0.0.5:8786"
        )
    return None


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """Text that ``check`` has nothing against."""

    def same(text: str) -> str:
        check(text)
        return text

    return AfterValidator(same)


LOCAL_CLUSTER = re.compile(r"local:([1-9]\d{0,2})")
SCHEDULER = re.compile(r"([a-z]+://)?([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}")
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[str, _checked(required_share)]
Pair = Annotated[str, _checked(pair)]
InputText = Annotated[str, _checked(ArrayInput.parse)]
ArgumentText = Annotated[str, _checked(arguments.parse)]
Percent = Annotated[str, _checked(fraction)]
Duration = Annotated[str, _checked(seconds)]
SIDES = (32, 2048)  # pixels
Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]
Seconds = Annotated[float, Field(gt=0, le=3600)]
# Options of several commands.
Variants = Annotated[
    tuple[str, ...],
    Help("fp32, int8, int8-avx2, fp16.", flag="--variant", short="-v", metavar="NAME"),
]
Width = Annotated[
    Annotated[float, Field(ge=0.1, le=4)] | None,
    Help("Width multiplier, of architectures that have one.", unset="1"),
]
InputSize = Annotated[
    Side | tuple[Side, Side] | None,
    BeforeValidator(input_size),
    Help(
        "Side of the input in pixels, or height and width: 480x640.",
        metavar="N|HxW",
        unset="the weights' own",
    ),
]
Cluster = Annotated[
    Annotated[str, _checked(workers_of)] | None,
    Help(
        "Spread the work over Dask workers: a scheduler's address, or local:N here.",
        metavar="ADDRESS|local:N",
    ),
]
SkipUnreadable = Annotated[bool, Help("Leave out images that can't be read, and name them.")]
