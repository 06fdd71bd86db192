"""parity: are a cell's answers still torch's? Runs the goldens through every cell and judges.

The outputs are kept in ``parity.npz``, so that other gates can be tried without running
anything again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...runners.base import PlacementError, RunnerError
from ...runners.images import Preprocessing
from ...runners.workers.answers import Loaded
from ..cells import arithmetic
from ..cells.cluster import kept
from ..cells.cluster.spread import Spread, spread
from ..cells.plan import Refused, plan
from ..cells.session import Cell, Opener, run_goldens
from ..errors import InputError, UsageError
from ..progress import Progress
from ..settings.judging import ParityRequest
from ..settings.load import load_exported
from ..settings.options import takes
from ..storage import goldens as recorded
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace
from .explain import explain
from .parity_result import ParityResult, judge_all
from .recording import CellOutputs, Recording

COMMAND = "parity"
OUTPUTS_FILE = "parity.npz"


@takes(ParityRequest)
def parity(request: ParityRequest) -> ParityResult:
    """Judge the outputs of every cell on the goldens against torch's.

    Writes ``parity.npz`` (the outputs) and ``parity.json`` (the verdicts) into the workspace.
    With ``recording``, the path of such a ``parity.npz``, nothing is run or written: its
    outputs are judged under the gates of the configuration. With ``explain`` the result also
    says which step and layer adds the error, and ``explain.json`` holds that. The other keywords
    are the keys of ``[parity]``. Raises what ``errors.EXIT_CODES`` lists; verdicts are in the
    result.
    """
    config = load_exported(request.flags())
    section, progress = config.parity, request.progress
    if request.recording is not None:
        if request.explain:
            raise UsageError("--explain runs the model again, --from runs nothing: choose one")
        if request.cluster:
            raise UsageError("--cluster is for running cells, --from runs nothing: choose one")
        return judge_all(Recording.load(request.recording), section, config.gates)
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe parity", progress.say) as manifest:
        cells, refused = plan(place.folder, manifest, section, config.places)
        about = {"artifacts": manifest.digests}
        with spread(section.cluster, COMMAND, place.folder, cells, about, progress) as cluster:
            recorded = record(place, manifest, section.samples, progress, cells, refused, cluster)
        result = judge_all(recorded, section, config.gates)
        result = replace(result, cluster=cluster.use if cluster else None)
        place.write_result(OUTPUTS_FILE, recorded.to_bytes())
        place.write(result)
        kept.forget(place.folder, COMMAND)
        if request.explain:
            trusted = section.trust_workspace
            found = explain(place, manifest, config.gates, trusted, recorded, result, progress)
            place.write(found)
            result = replace(result, explanations=found.cells, folder=place.folder)
    return result


def record(
    workspace: Workspace,
    manifest: Manifest,
    samples: int | None,
    progress: Progress,
    cells: Sequence[Cell],
    refused: Sequence[Refused] = (),
    cluster: Spread | None = None,
) -> Recording:
    """Run the goldens, ``samples`` of them or all, through ``cells``. One that fails says why.

    They run on a ``cluster`` if there is one, else one after the other here.
    """
    goldens = recorded.Goldens.load(workspace.folder / recorded.FILE)
    preprocessing = recorded.preprocessing_of(manifest)
    second = {
        variant: arithmetic.of_workspace(workspace.folder, manifest, variant)
        for variant in dict.fromkeys(cell.variant for cell in cells)
    }
    count = min(samples or len(goldens), len(goldens))
    if count == 0:
        raise InputError(f"{workspace.folder / recorded.FILE}: no goldens in it")
    if cluster:
        found = _run_spread(cluster, cells, preprocessing, count)
    else:
        found = _run_here(workspace, cells, goldens, preprocessing, count, progress)
    found += [CellOutputs.refused(one, asked=one.precision or "") for one in refused]
    return Recording(
        model=manifest.model,
        artifacts=manifest.digests,
        reference_sqnr_db=goldens.reference_sqnr_db,
        reference_assumed=goldens.reference_assumed,
        reference={name: array[:count] for name, array in goldens.fp32.items()},
        cells=tuple(found),
        own={variant: own.first(count) for variant, own in second.items() if own},
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _run_here(
    workspace: Workspace,
    cells: Sequence[Cell],
    goldens: recorded.Goldens,
    preprocessing: Preprocessing | None,
    count: int,
    progress: Progress,
) -> list[CellOutputs]:
    """The cells' outputs, one cell after the other."""
    found: list[CellOutputs] = []
    opener = Opener()
    for number, cell in enumerate(cells):

        def step(done: int, number: int = number, cell: Cell = cell) -> None:
            progress.step(number * count + done, len(cells) * count, str(cell))

        step(0)
        try:
            with opener.open(cell, workspace.folder / cell.file) as opened:
                arrays = run_goldens(opened, goldens, preprocessing, count, step)
                host = opened.worker.hello["host"]
        except RunnerError as error:
            found.append(_failed(cell, error))
        else:
            found.append(_ran(cell, opened.loaded, host, arrays))
    progress.step(1, 1, "")
    return found


def _run_spread(
    cluster: Spread, cells: Sequence[Cell], preprocessing: Preprocessing | None, count: int
) -> list[CellOutputs]:
    """As ``_run_here``, on a cluster."""
    found: list[CellOutputs] = []
    file = cluster.folder / recorded.FILE
    for cell, ran in cluster.goldens(cells, file, preprocessing, count).items():
        try:
            if ran.error or ran.loaded is None:
                raise ran.error or RunnerError("nothing came back")
            found.append(_ran(cell, ran.loaded, ran.host, ran.arrays()))
        except RunnerError as error:
            found.append(_failed(cell, error))
    return found


def _ran(
    cell: Cell, loaded: Loaded, host: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> CellOutputs:
    more = {"asked": cell.precision, "cell": cell, "host": host, "arrays": arrays}
    return CellOutputs.ran(cell, loaded, **more)


def _failed(cell: Cell, error: RunnerError) -> CellOutputs:
    misplaced = isinstance(error, PlacementError)
    return CellOutputs.failed(cell, error, asked=cell.precision, cell=cell, misplaced=misplaced)
