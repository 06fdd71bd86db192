"""The boxes of a fleet: a TOML file with a table for each, checked before any is reached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from ....runners import registry
from ....runners.targets import Target
from ...errors import UsageError
from ...settings.load import Config, read_toml
from ...settings.machine import Places, TargetConfig
from ...settings.nearest import nearest
from ...settings.options import Positive
from ...settings.refusal import explained
from ...settings.shipping import DeployConfig, Milliseconds, VerifyConfig
from ..delivery import refuse_estimate

DEFAULTS, BOX = "defaults", "box"
Label = str | int


class BoxConfig(TargetConfig):
    """``[[box]]``: its name, how it is reached, its own of ``[deploy]`` and ``[verify]``.

    It is reached over ``ssh``, by a ``command``, or as a ``target`` of ``edgepipe.toml``, by its
    own name unless said otherwise.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    target: str | None = None
    labels: dict[str, Label] = {}
    folder: str | None = None
    key: str | None = None
    restart: str | None = None
    settle: Annotated[float, Field(ge=0, le=3600)] | None = None
    runner: str | None = None
    variant: str | None = None
    samples: Positive | None = None
    max_p99: Milliseconds | None = None

    @model_validator(mode="after")
    def _starts_one_thing(self) -> Self:
        if sum(one is not None for one in (self.target, self.command, self.ssh)) > 1:
            raise ValueError("give it one of ssh, command and target")
        if (self.ssh is None) != (self.python is None) or (self.options and not self.ssh):
            raise ValueError("ssh and python belong together, options only go with ssh")
        if not self.name.isprintable() or self.name != self.name.strip():
            raise ValueError("a name is one line of printable text")
        return self

    def place(self, places: Places) -> Target:
        """How it is reached, under its own name. Raises ``UsageError`` for an unknown target."""
        if self.command is None and self.ssh is None:
            return replace(places.target(self.target or self.name), name=self.name)
        return self.named(self.name)


@dataclass(frozen=True)
class Box:
    """One box: how it is reached, and what is done there."""

    name: str
    target: Target
    labels: Mapping[str, Label]
    deploy: DeployConfig
    verify: VerifyConfig


def boxes_of(path: Path, config: Config) -> tuple[Box, ...]:
    """The boxes of a fleet file, in its order. Raises ``UsageError`` for what makes no sense.

    A box's own keys go before those of ``[defaults]``, and these before the configuration's.
    """
    found: dict[str, Box] = {}
    places: dict[tuple[Any, str], str] = {}
    for number, table in enumerate(_tables(path), 1):
        name = table.get("name")
        where = f"{path}, box {name if isinstance(name, str) else number}"
        try:
            said = BoxConfig.model_validate(table)
        except ValidationError as error:
            raise UsageError(explained(error, [(where, table)], {"": BoxConfig})) from error
        if said.name in found:
            raise UsageError(f"{path}: two boxes are called {said.name!r}; give each its own name")
        try:
            box = _box(said, config)
            refuse_estimate(box.target)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        place = (box.target.command, box.deploy.folder)
        if place in places:
            raise UsageError(
                f"{path}: {places[place]} and {said.name} are the same folder of the same "
                "machine; leave one out, or give it its own folder"
            )
        found[said.name], places[place] = box, said.name
    return tuple(found.values())


def ordered(boxes: tuple[Box, ...], label: str | None, path: Path) -> tuple[Box, ...]:
    """The boxes by a label's value, numbers as numbers; those without it last, equals as they were.

    Raises ``UsageError`` for a label that no box has.
    """
    if label is None:
        return boxes
    known = dict.fromkeys(name for box in boxes for name in box.labels)
    if label not in known:
        hint = nearest(label, known) if known else "no box has labels"
        raise UsageError(f"order: no label {label!r} in {path}; {hint}")
    return tuple(sorted(boxes, key=lambda box: (label not in box.labels, _natural(box, label))))


def _natural(box: Box, label: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", str(box.labels.get(label, "")))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _tables(path: Path) -> Iterator[dict[str, Any]]:
    """Each box's table with the defaults in it, keys as Python spells them."""
    file = read_toml(path)
    for key in file:
        if key not in (DEFAULTS, BOX):
            raise UsageError(f"unknown key {key} ({path}); {nearest(key, (BOX, DEFAULTS))}")
    tables, defaults = file.get(BOX, []), file.get(DEFAULTS, {})
    if not isinstance(defaults, dict):
        raise UsageError(f"{path}: [{DEFAULTS}] is to be a table, got {defaults!r}")
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise UsageError(f"{path}: each box is a table of its own, [[{BOX}]]")
    if not tables:
        raise UsageError(f"{path}: no box in it; each is a table [[{BOX}]] with a name")
    for own in ("name", "target", "ssh", "command"):
        if own in defaults:
            raise UsageError(f"{path}: {DEFAULTS}.{own}: every box has its own")
    for table in tables:
        merged = {**_spelled(defaults), **_spelled(table)}
        if "ssh" not in table:  # what goes with ssh alone may be said once for all that have it
            for name in {"python", "options"} - set(table):
                merged.pop(name, None)
        yield merged


def _spelled(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in table.items()}


def _box(said: BoxConfig, config: Config) -> Box:
    def own(*names: str) -> dict[str, Any]:
        given = {name: getattr(said, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    if said.runner is not None and said.runner not in (known := registry.names()):
        raise UsageError(f"runner: no {said.runner!r}; {nearest(said.runner, known)}")
    limit = {"max_p99": config.rollout.max_p99} if config.rollout.max_p99 is not None else {}
    checks = {**limit, **own("runner", "variant", "samples", "max_p99")}
    return Box(
        said.name,
        said.place(config.places),
        said.labels,
        config.deploy.model_copy(update=own("folder", "key", "restart", "settle")),
        config.verify.model_copy(update=checks),
    )
