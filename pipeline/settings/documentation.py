"""The reference of the configuration: every key with its type, default, variable and flag.

Made from the fields that the configuration itself is made of, so that it can't say anything else;
``python -m edgepipe.pipeline.cli.documentation`` writes it to ``docs/reference``.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .load import COMMANDS, CONFIG_FILE, ENVIRONMENT_PREFIX, NAMED, Config
from .options import Help, OfModel, Section
from .refusal import kebab

HEADER = (
    "<!-- Made by `python -m edgepipe.pipeline.cli.documentation`: change the source instead. -->"
)
INTRODUCTION = f"""# Configuration

{HEADER}

What isn't said on the command line is looked for in the environment, then in `{CONFIG_FILE}` of the
current folder, then in `[tool.edgepipe]` of its `pyproject.toml`; what is found first holds. An
unknown key is an error (exit code 2) that names the nearest known one.

In the environment lists are separated by commas: `EDGEPIPE_BENCH_RUNNERS=ort-cpu,openvino`.
"""
WORDS = {
    str: "text",
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    Path: "path",
}
LIMITS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}
COLUMNS = ("key", "type", "default", "variable", "flag", "what")


def configuration() -> str:
    """The page, as Markdown."""
    parts = [INTRODUCTION, "## Top level", table(_rows(Config, "", OfModel.helps()))]
    for name, section in COMMANDS.items():
        parts += [f"## `[{name}]`", _about(section), table(_rows(section, name, section.helps()))]
    for name, section in NAMED.items():
        parts += [f"## `[{name}.NAME]`", _about(section), table(_rows(section, None, {}))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(rows: Iterable[Iterable[str]], columns: Iterable[str] = COLUMNS) -> str:
    """A table in Markdown, without the columns that are empty in every row."""
    found = [tuple(row) for row in rows]
    shown = [number for number, _ in enumerate(columns) if any(row[number] for row in found)]
    lines = [tuple(columns), ("---",) * len(tuple(columns)), *found]
    return "\n".join(f"| {' | '.join(line[one] for one in shown)} |" for line in lines)


def code(text: str) -> str:
    """Text as code. A bar would end the table's cell, in some readers also inside of code."""
    if "|" not in text:
        return f"`{text}`" if text else ""
    return f"<code>{prose(text)}</code>"


def prose(text: str) -> str:
    """Text as text, whatever is in it."""
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("*", "&#42;")):
        text = text.replace(mark, entity)
    return text


def _rows(kind: type[Section], table: str | None, flags: dict[str, Help]) -> Iterator[list[str]]:
    for name, told in kind.helps().items():
        field, flag = kind.model_fields[name], flags.get(name)
        parts = [ENVIRONMENT_PREFIX.rstrip("_"), table, name]
        variable = "_".join(filter(None, parts)).upper() if table is not None else ""
        yield [
            code(kebab(name)),
            type_of(field.annotation, field.metadata),
            _default(field, flag or told),
            code(variable),
            code(_flag(name, flag)) if flag else "",
            prose(told.text),
        ]


def _about(section: type[Section]) -> str:
    """The section's docstring; single words that it marks as code are Python's, or the user's."""
    return inspect.cleandoc(section.__doc__ or "").replace("``", "`")


def _flag(name: str, told: Help) -> str:
    if told.flag == "":
        return ""
    return ", ".join(filter(None, [told.flag or f"--{kebab(name)}", told.short]))


def type_of(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field takes, in words: "whole number, at least 1"."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        nested = (item.metadata if isinstance(item, FieldInfo) else [item] for item in inside[1:])
        return type_of(inside[0], [one for some in nested for one in some])
    if origin in (Union, types.UnionType):
        known = [type_of(one, metadata) for one in inside if one is not type(None)]
        return ", or ".join(dict.fromkeys(known))
    if origin is Literal:
        return " or ".join(code(f'"{one}"') for one in inside)
    if origin is tuple:
        many = inside[-1] is Ellipsis
        return f"{'list' if many else f'list of {len(inside)}'}: {type_of(inside[0])}"
    words = WORDS.get(annotation, str(annotation))
    limits = [
        f"{said} {getattr(one, limit):,}"
        for one in metadata
        for limit, said in LIMITS.items()
        if getattr(one, limit, None) is not None
    ]
    return ", ".join([words, *limits])


def _default(field: FieldInfo, told: Help) -> str:
    """The value that holds without the key, as TOML has it, or what is done then."""
    value = field.default
    if value is None or value == ():
        return prose(told.unset)
    return code(_toml(value))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, int | float) else f'"{value}"'
