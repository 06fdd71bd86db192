"""Recipes: which steps make int8, one after the other. Plug-ins add steps of their own.

A step takes a draft and gives one: it chooses ranges, moves biases, keeps layers in float. Third
parties add theirs with an entry point in the group ``edgepipe.quantizers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from itertools import groupby
from typing import Protocol, cast

from ..errors import MissingLibrary, UsageError
from . import ranges
from .draft import Data, Draft
from .units import LayerStep, walked

GROUP = "edgepipe.quantizers"
_PACKAGE = __name__.rpartition(".")[0]
DEFAULT = "accurate"
# What a recipe's gain is counted from.
BASELINE = "min-max"
RECIPES: Mapping[str, tuple[str, ...]] = {
    "accurate": ("least-squares", "rounding", "bias-correction"),
    "minmax": ("min-max",),
    "nncf": ("nncf",),
}
BUILT_IN = {
    **dict.fromkeys(ranges.METHODS, f"{__name__}:Ranges"),
    "equalization": f"{_PACKAGE}.steps.equalization:Equalization",
    "rounding": f"{_PACKAGE}.steps.rounding:Rounding",
    "rounding-all": f"{_PACKAGE}.steps.rounding:RoundingAll",
    "nncf": f"{_PACKAGE}.steps.nncf_recipe:Nncf",
    "bias-correction": f"{_PACKAGE}.steps.bias:BiasCorrection",
}


class Quantizer(Protocol):
    """A step of a recipe."""

    @property
    def name(self) -> str:
        """What recipes call it."""
        ...

    def apply(self, draft: Draft, data: Data) -> Draft:
        """The draft with what this step decides; nothing that it was given is changed.

        The same draft and data have to give the same result, to the last bit.
        """
        ...


@dataclass(frozen=True)
class Ranges:
    """Chooses the range of every activation by one of ``ranges.METHODS``."""

    name: str

    def apply(self, draft: Draft, data: Data) -> Draft:
        """See ``Quantizer.apply``."""
        calibrated = draft.calibrated or data.calibrated
        return replace(draft, ranges=ranges.choose(calibrated, self.name))


def names() -> list[str]:
    """Every step's name, built-in ones first."""
    return list(BUILT_IN) + sorted(set(_plugins()) - set(BUILT_IN))


def steps_of(recipe: str) -> tuple[str, ...]:
    """The steps of a recipe: its name, or those of steps with commas between.

    Raises ``UsageError`` for a step that isn't there, and for a recipe that chooses no ranges.
    """
    found = RECIPES.get(recipe) or tuple(part.strip() for part in recipe.split(","))
    for name in found:
        if name not in names():
            known = ", ".join((*RECIPES, *names()))
            raise UsageError(f"recipe: no step {name!r}; known: {known}")
    first = next((name for name in found if name != "equalization"), "")
    if first in BUILT_IN and first not in (*ranges.METHODS, "nncf"):
        known = ", ".join(ranges.METHODS)
        raise UsageError(f"recipe: {first} needs ranges, which come first: {known}")
    return found


def method_of(steps: Sequence[str]) -> str:
    """How a recipe chooses ranges, the plain way where a step that isn't ours does it."""
    return next((step for step in steps if step in ranges.METHODS), BASELINE)


def origins(steps: Sequence[str]) -> dict[str, str]:
    """The distributions, with versions, of those steps that are plug-ins."""
    points = _plugins()
    return {
        name: f"{points[name].dist.name} {points[name].dist.version}"  # pyright: ignore
        for name in steps
        if name not in BUILT_IN
    }


def get(name: str) -> Quantizer:
    """Import a step. Raises ``MissingLibrary`` for a plug-in that fails or is none."""
    if name in ranges.METHODS:
        return Ranges(name)
    path = BUILT_IN.get(name) or _plugins()[name].value
    module, _, attribute = path.partition(":")
    try:
        step = getattr(import_module(module), attribute)()
        broken = None if step.name == name else f"its name is {step.name!r}"
        if not callable(step.apply):
            broken = "its apply can't be called"
    except (Exception, SystemExit) as error:  # whatever a plug-in does, it is one line
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MissingLibrary(f"quantizer {name} ({path}) fails to import: {reason}") from error
    if broken:
        raise MissingLibrary(f"quantizer {name} ({path}) breaks the protocol: {broken}")
    return step


def drafts(draft: Draft, data: Data, steps: Sequence[str]) -> Iterator[tuple[str, Draft]]:
    """A draft after each step. Those that go layer by layer one behind the other go together."""
    made = [(name, get(name)) for name in steps]
    for by_layer, some in groupby(made, key=lambda one: isinstance(one[1], LayerStep)):
        group = list(some)
        if by_layer:
            found = walked(draft, data, [cast("LayerStep", step) for _, step in group])
            yield from zip((name for name, _ in group), found, strict=True)
            draft = found[-1]
            continue
        for name, step in group:
            draft = step.apply(draft, data)
            yield name, draft


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
