"""Which cells a command has: every variant on every runner that takes it, as far as asked for.

What was asked for by name and can't be is refused with the reason, and the command shows it as a
row. What nobody asked for is no failure: a runner that isn't named need not take every variant.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runners import registry
from ...runners.base import RunnerError
from ...runners.bundles.index import AVX2
from ...runners.environments import environments
from ...runners.targets import ARM64, ARM64_RUNNERS, ISAS, LOCAL, Target
from ...runners.timing.plan import SINGLE_STREAM
from ...runners.workers.launch import Worker
from ..errors import IntegrityError, UsageError
from ..numerics.precision import HALF
from ..settings.judging import CellsConfig
from ..settings.machine import Places
from ..storage import made_here
from ..storage.manifest import CellKey, Manifest
from .session import Cell, with_settings


@dataclass(frozen=True)
class Refused:
    """A cell that was asked for and can't be, with the reason.

    Its ``status`` is that of the row: "failed", or "unavailable" for a runner that can't even be
    asked what it takes; that one stands for all of its cells and names no variant.
    """

    variant: str
    runner: str
    target: str
    precision: str | None
    status: str
    reason: str


@dataclass(frozen=True)
class Abilities:
    """What a runner can be asked for: model formats, best first, and precisions.

    ``half`` are those of ``precisions`` that are for the variant fp16 alone.
    """

    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    half: tuple[str, ...] = ()


def plan(
    folder: Path,
    manifest: Manifest,
    section: CellsConfig,
    places: Places,
    scenario: str = SINGLE_STREAM,
) -> tuple[list[Cell], list[Refused]]:
    """The cells that ``section`` asks for, and what it asks for by name that can't be.

    ``folder`` is the model's, which the manifest is of.

    They have the settings that tune recommends for the scenario, unless ``section`` says
    otherwise. Raises ``UsageError`` for a variant that the workspace does not have, and
    ``IntegrityError`` for a runner that was named and would read a file that can run code, which
    nobody vouches for.
    """
    for variant in section.variants:
        if variant not in manifest.variants:
            raise UsageError(manifest.lacks(variant, folder))
    cells: list[Cell] = []
    refused: list[Refused] = []
    impossible: list[Refused] = []
    for runner in section.runners or registry.names():
        try:
            able, python = abilities_of(runner, places), python_of(runner, places)
        except RunnerError as error:
            refused.append(Refused("", runner, "", None, "unavailable", str(error)))
            continue
        targets: list[Target] = []
        for target in map(places.target, section.targets):
            if reason := not_there(runner, target, places):
                if runner in section.runners:
                    row = Refused("", runner, target.name, None, "unavailable", reason)
                    refused.append(row)
            else:
                targets.append(target)
        for variant, target, precision in itertools.product(
            section.variants or manifest.variants, targets, section.precisions
        ):
            if not section.variants and needless(variant, target):
                continue
            files = manifest.variants[variant]
            if reason := _why_not(variant, files, runner, precision, able, manifest.model):
                row = Refused(variant, runner, target.name, precision, "failed", reason)
                impossible.append(row)
                continue
            file = next(files[name] for name in able.formats if name in files)
            if not section.trust_workspace and (doubt := made_here.distrusted(manifest, file)):
                if runner in section.runners:
                    raise IntegrityError(f"{folder}: {doubt}")
                row = Refused(variant, runner, target.name, precision, "unavailable", doubt)
                refused.append(row)
                continue
            cell = Cell(
                variant,
                runner,
                target,
                precision,
                file,
                section.threads or section.threads_unset,
                python,
                places.device_of(runner),
                section.allow_fallback,
                beside=manifest.files(file)[1:],
            )
            found = manifest.recommendation(key_of(cell, scenario))
            tuned = found if section.tuned and section.threads is None else None
            cells.append(with_settings(cell, tuned.settings, tuned=True) if tuned else cell)
    return cells, [*refused, *_in_vain(impossible, cells, section)]


def key_of(cell: Cell, scenario: str) -> CellKey:
    """What a recommendation for the cell is kept under."""
    return CellKey(
        cell.variant, cell.runner, cell.target.name, cell.device, cell.precision, scenario
    )


def abilities_of(runner: str, places: Places) -> Abilities:
    """What a runner can be asked for.

    A plug-in is asked in a worker, so that nothing its import does can end the command.
    Raises ``RunnerError`` if it can't say.
    """
    known = registry.entry(runner)
    if known.formats is not None:
        missing = known.device_precisions if places.device_of(runner) == "CPU" else ()
        precisions = tuple(one for one in known.precisions if one not in missing)
        return Abilities(known.formats, precisions, known.half_precisions)
    with Worker(LOCAL.argv(python_of(runner, places) or sys.executable)) as worker:
        described = worker.describe(runner)
        return Abilities(described.formats, described.precisions)


def python_of(runner: str, places: Places) -> str | None:
    """The interpreter of a runner that has one: configured, or of an environment made for it.

    Raises ``RunnerUnavailable`` for an environment that can't be used any more.
    """
    return places.python_of(runner) or environments.python_of(runner)


def not_there(runner: str, target: Target, places: Places) -> str | None:
    """Why a runner has no cells at all on a target that computes as, or emulates, another CPU."""
    if target.environment == ARM64 and runner not in ARM64_RUNNERS:
        return f"{target.name} has {' and '.join(ARM64_RUNNERS)}, its environment has no {runner}"
    if target.isa is None:
        return None
    return registry.why_not_capped(runner, ISAS[target.isa], places.device_of(runner))


def needless(variant: str, target: Target) -> bool:
    """Whether a target has no use for a variant, and no cell unless that was named.

    No int8 kernel of ARM64 saturates: what is made for x86 CPUs where they do is slower to judge
    there than it is worth.
    """
    return target.environment == ARM64 and variant.startswith(AVX2)


def _why_not(
    variant: str,
    files: Mapping[str, str],
    runner: str,
    precision: str,
    able: Abilities,
    model: Mapping[str, Any],
) -> str | None:
    if not set(files) & set(able.formats):
        because = model.get("no_program_because") if "pt2" in able.formats else None
        return (
            f"{runner} takes {', '.join(able.formats)}; {variant} is there as {', '.join(files)}"
            f"{f': {because}' if because else ''}"
        )
    if precision not in able.precisions:
        return f"{runner} computes in {', '.join(able.precisions)}, not {precision}"
    if precision in able.half and variant != HALF:
        return f"{runner} computes the variant {HALF} in {precision}, not {variant}"
    if able.half and variant == HALF and precision not in ("f32", *able.half):
        return f"{runner} computes the variant {HALF} in {', '.join(able.half)}, not {precision}"
    return None


def _in_vain(
    impossible: Sequence[Refused], cells: Sequence[Cell], section: CellsConfig
) -> Iterator[Refused]:
    """Those that answer a question which no cell does.

    That is a runner, a variant or a precision that was named and has no cell at all, or a variant
    and a runner that were both named and have none together.
    """
    runners = {cell.runner for cell in cells}
    variants = {cell.variant for cell in cells}
    precisions = {cell.precision for cell in cells}
    pairs = {(cell.variant, cell.runner) for cell in cells}
    for one in impossible:
        named_runner, named_variant = one.runner in section.runners, one.variant in section.variants
        if (
            (named_runner and one.runner not in runners)
            or (named_variant and one.variant not in variants)
            or (named_runner and named_variant and (one.variant, one.runner) not in pairs)
            or (one.precision not in precisions and (named_runner or not section.runners))
        ):
            yield one
