"""quantize: make int8 anew by another recipe, or search for the one that is worth shipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ....exporters.weights.sources import CALIBRATED_WEIGHTS
from ...errors import ExitCode, UsageError
from ...judging.evaluate import evaluate
from ...numerics.paired import Drop
from ...progress import Progress
from ...settings.load import Config, load_exported
from ...settings.making import QuantizeConfig, QuantizeRequest
from ...settings.options import takes
from ...stages.native import Native
from ...stages.quantize import EXACT_PAIRS, Quantize
from ...stages.simplify import FP32
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
        for name in ("budget", "max_drop", "data", "cluster"):
            if getattr(section, name) != QuantizeConfig.model_fields[name].default:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is for a search: add --search")
        return _again(config, request.progress)
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe quantize", request.progress.say) as manifest:
        _check_floats(place, manifest)
        unlabelled = section.data is None and manifest.model["weights"] not in CALIBRATED_WEIGHTS
        if section.max_drop is not None and unlabelled:
            raise UsageError("--max-drop: labelled images are needed: add --data DIR")
        result = Search(place, manifest, config, request.progress).run()
        place.write(result)
    if section.max_drop is not None:
        result = _held(config, result, section.max_drop, request.progress)
        with place.exported("edgepipe quantize", request.progress.say):
            place.write(result)
    return result


def _check_floats(place: Workspace, manifest: Manifest) -> None:
    """Raise ``UsageError`` for a model that came in quantized, without the one behind it."""
    if FP32 not in manifest.artifacts:
        raise UsageError(
            f"{place.folder}: holds a quantized file alone, and int8 is made of a float model: "
            "name it, `edgepipe import --reference FILE`"
        )


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
        _check_floats(place, manifest)
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
        cluster=config.quantize.cluster,
        progress=progress,
    )
    drops = {row.variant: row.drop for row in judged.cells if row.drop}
    found, problems = within(result.found, drops, max_drop)
    code = ExitCode.GATE_FAILED if problems else ExitCode.OK
    return replace(result, found=found, problems=problems, exit_code=code)


def within(
    found: Sequence[Found], drops: Mapping[str, Drop], max_drop: float
) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """The rows with their drops, and what can't be: a CPU class without one that surely holds it.

    Of those whose interval ends at ``max_drop`` points or before, the fastest is recommended for
    each runner and class.
    """
    known = [
        replace(
            row,
            drop=drops[row.variant].points if row.variant in drops else None,
            drop_ci95=drops[row.variant].ci95 if row.variant in drops else None,
        )
        for row in found
    ]
    recommended: dict[str, tuple[str, ...]] = {}
    problems = []
    for exact_pairs in dict.fromkeys(row.candidate.exact_pairs for row in known):
        peers = [row for row in known if row.candidate.exact_pairs == exact_pairs]
        holds = [row for row in peers if row.drop_ci95 and row.drop_ci95[1] <= max_drop]
        if not holds:
            problems.append(f"{peers[0].variant}: none surely loses {max_drop:g} points or less")
            continue
        for speed in peers[0].speeds:
            fastest = min(holds, key=lambda row: _time(row, speed.runner)).variant
            recommended[fastest] = (*recommended.get(fastest, ()), speed.runner)
    rows = (replace(row, recommended=recommended.get(row.variant, ())) for row in known)
    return tuple(rows), tuple(problems)


def _time(row: Found, runner: str) -> float:
    ratio = row.speed(runner).ratio
    return math.inf if ratio is None else ratio
