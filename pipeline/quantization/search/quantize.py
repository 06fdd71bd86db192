"""quantize: make int8 anew by another recipe, or search for the one that is worth shipping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...errors import UsageError
from ...judging.evaluate import evaluate
from ...progress import Progress
from ...settings.load import Config, load_exported
from ...settings.making import QuantizeConfig, QuantizeRequest
from ...settings.options import takes
from ...stages.native import Native
from ...stages.quantize import EXACT_PAIRS, Quantize
from ...stages.stage import run_stages
from ...storage.manifest import Manifest
from ...storage.workspace import Transaction, Workspace
from .. import recipes
from .calibration import calibration
from .search import Search
from .search_result import Found, SearchResult


@takes(QuantizeRequest)
def quantize(request: QuantizeRequest) -> Manifest | SearchResult:
    """Make the int8 variants of an exported model anew; returns the workspace's manifest.

    With ``search`` candidates are made and measured until ``budget`` is spent or nothing nearer
    to the float model is found. What is worth having becomes variants of the workspace, and the
    result, ``search.json``, is returned. The keywords are the keys of ``[quantize]``. Raises what
    ``errors.EXIT_CODES`` lists.
    """
    config = load_exported(request.flags())
    section = config.quantize
    if not request.search:
        for name in ("budget", "max_drop", "data"):
            if getattr(section, name) != QuantizeConfig.model_fields[name].default:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is for a search: add --search")
        return _again(config, request.progress)
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe quantize", request.progress.say) as manifest:
        result = Search(place, manifest, config, request.progress).run()
        place.write(result)
    if section.max_drop is not None:
        result = _held(config, result, section.max_drop, request.progress)
        with place.exported("edgepipe quantize", request.progress.say):
            place.write(result)
    return result


def _again(config: Config, progress: Progress) -> Manifest:
    """The int8 variants that there are, by another recipe."""
    section = config.quantize
    steps = recipes.steps_of(section.recipe)
    place = Workspace(config.workspace, config.model)
    with (
        place.exported("edgepipe quantize", progress.say) as manifest,
        Transaction(place, manifest) as transaction,
        Native() as native,
    ):
        calibrate, _ = calibration(manifest, section, native)
        names = [name for name in EXACT_PAIRS if name in manifest.variants]
        stages = [Quantize(name, steps, calibrate) for name in names]
        transaction.stages = {one.name: one for one in manifest.stages}
        run_stages(stages, place, manifest, transaction, progress)
        return transaction.amend()


def _held(
    config: Config, result: SearchResult, max_drop: float, progress: Progress
) -> SearchResult:
    """Recommends, for each runner and class, the fastest that surely loses no more than that."""
    judged = evaluate(
        workspace=config.workspace,
        model=config.model,
        variants=("fp32", *(row.variant for row in result.found)),
        runners=(result.found[0].speeds[0].runner,),
        data=config.quantize.data,
        progress=progress,
    )
    drops = {row.variant: row.drop for row in judged.cells if row.drop}
    rows = []
    for row in result.found:
        drop = drops.get(row.variant)
        ends = drop.ci95 if drop else None
        rows.append(
            replace(row, drop=drop.points if drop else None, drop_ci95=ends, recommended=())
        )
    problems = []
    for exact_pairs in dict.fromkeys(row.candidate.exact_pairs for row in rows):
        peers = [row for row in rows if row.candidate.exact_pairs == exact_pairs]
        holds = [row for row in peers if row.drop_ci95 and row.drop_ci95[1] <= max_drop]
        if not holds:
            problems.append(f"{peers[0].variant}: nothing surely loses {max_drop} points or less")
        for speed in peers[0].speeds if holds else ():
            fastest = min(holds, key=lambda row: _time(row, speed.runner))
            place = rows.index(fastest)
            now = (*fastest.recommended, speed.runner)
            rows[place] = replace(fastest, recommended=now)
            holds = [rows[place] if one is fastest else one for one in holds]
    return replace(result, found=tuple(rows), problems=tuple(problems))


def _time(row: Found, runner: str) -> float:
    ratio = next((one.ratio for one in row.speeds if one.runner == runner), None)
    return np.inf if ratio is None else ratio
