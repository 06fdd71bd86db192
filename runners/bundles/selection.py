"""Which variant of a bundle on which runner with which settings a machine is to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import registry
from ..base import BundleError, RunnerError, RunnerUnavailable, SessionError, Settings
from ..timing.plan import SINGLE_STREAM
from .index import Index, Recommended

# Quantized before float, and the wider weights first where the CPU computes with them exactly.
PREFERRED = ("int8", "int8-avx2", "fp16", "fp32")


@dataclass(frozen=True)
class Choice:
    """``files`` are those that ``runner`` takes of ``variant``, the main one first.

    ``misfit`` is why the machine is not one for the variant; ``recommended`` whether the
    settings come with the bundle. ``passed_over`` are variants that would have come first, with
    the reason why they were not taken.
    """

    variant: str
    runner: str
    files: tuple[str, ...]
    settings: Settings
    recommended: bool
    misfit: str | None
    passed_over: Mapping[str, str]


def available(
    index: Index,
    wanted: str | None,
    formats_of: Callable[[str], tuple[str, ...]],
    where: str = "here",
) -> dict[str, tuple[str, ...]]:
    """The formats of the runners that work on a machine, or of the one that is ``wanted``.

    ``formats_of`` asks a runner, and raises ``RunnerError`` for one that doesn't work. Those that
    the bundle has recommendations for are asked first, and none further once one takes all that
    there is. Raises ``RunnerUnavailable`` if none is left.
    """
    found: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    favoured = {one.runner for one in index.recommended}
    names = sorted(registry.names(), key=lambda name: name not in favoured)
    for name in (wanted,) if wanted else names:
        try:
            found[name] = formats_of(name)
        except RunnerError as error:
            if not error.greeted:  # no worker starts there: the next one won't, either
                raise
            reasons[name] = str(error)
            continue
        if all(set(variant.files) & set(found[name]) for variant in index.variants.values()):
            break
    if not found:
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise RunnerUnavailable(f"no runner for this bundle {where}: {said}")
    return found


def choose(
    index: Index,
    facts: Mapping[str, Any],
    formats: Mapping[str, tuple[str, ...]],
    *,
    variant: str | None = None,
    target: str = "local",
) -> Choice:
    """The best variant that fits the machine, on the first runner that takes it.

    ``facts`` are those of ``host.facts``, ``formats`` what each available runner takes, in order
    of preference; a runner with a recommendation comes before one without. A variant that is
    asked for by name is taken even if it does not fit: see ``Choice.misfit``. Raises
    ``SessionError`` if none is left.
    """
    if variant is not None and variant not in index.variants:
        raise SessionError(f"no variant {variant} in it; there are {', '.join(index.variants)}")
    passed: dict[str, str] = {}
    for name in (variant,) if variant else _ordered(index):
        offered = index.variants[name]
        misfit = offered.misfit(facts)
        if misfit and variant is None:
            passed[name] = misfit
            continue
        for runner in _runners(index, name, formats):
            kind = next((kind for kind in formats[runner] if kind in offered.files), None)
            if kind is not None:
                settings, recommended = settings_for(index, name, runner, facts, target)
                return Choice(
                    name, runner, offered.files[kind], settings, recommended, misfit, passed
                )
        passed[name] = f"no runner here ({', '.join(formats) or 'none'}) takes its files"
    raise SessionError("; ".join(f"{name}: {reason}" for name, reason in passed.items()))


def settings_for(
    index: Index, variant: str, runner: str, facts: Mapping[str, Any], target: str
) -> tuple[Settings, bool]:
    """What the bundle recommends for a cell, and whether it does; else all physical cores, f32.

    Threads are never more than the machine has cores. Raises ``BundleError`` for settings that
    don't exist here.
    """
    cores = int(facts.get("physical_cores", 1))
    best = recommended(index, variant, runner, target)
    if best is None:
        return Settings(cores), False
    try:
        settings = Settings(**{"threads": cores, **best.settings})
        return replace(settings, threads=max(1, min(cores, int(settings.threads)))), True
    except (TypeError, ValueError) as error:
        raise BundleError(f"settings recommended for {variant}/{runner}: {error}") from error


def recommended(index: Index, variant: str, runner: str, target: str) -> Recommended | None:
    """What is recommended for a cell as applications run it, on this target before another.

    That is one image after the other, in f32, on the device that the runner takes by itself.
    """
    found = [one for one in _usual(index) if (one.variant, one.runner) == (variant, runner)]
    return next((one for one in found if one.target == target), found[0] if found else None)


def _usual(index: Index) -> list[Recommended]:
    return [
        one
        for one in index.recommended
        if (one.scenario, one.precision) == (SINGLE_STREAM, "f32") and one.device == _device(one)
    ]


def _device(one: Recommended) -> str:
    known = registry.BUILT_IN.get(one.runner)
    return known.device if known else one.device


def _ordered(index: Index) -> list[str]:
    known = [name for name in PREFERRED if name in index.variants]
    return [*known, *(name for name in index.variants if name not in PREFERRED)]


def _runners(index: Index, variant: str, formats: Mapping[str, tuple[str, ...]]) -> list[str]:
    favoured = {one.runner for one in _usual(index) if one.variant == variant}
    return sorted(formats, key=lambda runner: runner not in favoured)
