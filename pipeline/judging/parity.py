"""parity: are a cell's answers still torch's? Runs the goldens through every cell and judges.

The outputs are kept in ``parity.npz``, so that other gates can be tried without running
anything again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ...runners.base import PlacementError, RunnerError
from ..cells import arithmetic
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
        return judge_all(Recording.load(request.recording), section, config.gates)
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe parity", progress.say) as manifest:
        cells, refused = plan(place.folder, manifest, section, config.places)
        recorded = record(place, manifest, section.samples, progress, cells, refused)
        result = judge_all(recorded, section, config.gates)
        place.write_result(OUTPUTS_FILE, recorded.to_bytes())
        place.write(result)
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
) -> Recording:
    """Run the goldens, ``samples`` of them or all, through ``cells``. One that fails says why."""
    goldens = recorded.Goldens.load(workspace.folder / recorded.FILE)
    preprocessing = recorded.preprocessing_of(manifest)
    second = {
        variant: arithmetic.of_workspace(workspace.folder, manifest, variant)
        for variant in dict.fromkeys(cell.variant for cell in cells)
    }
    count = min(samples or len(goldens), len(goldens))
    if count == 0:
        raise InputError(f"{workspace.folder / recorded.FILE}: no goldens in it")
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
            misplaced = isinstance(error, PlacementError)
            more = {"asked": cell.precision, "cell": cell, "misplaced": misplaced}
            found.append(CellOutputs.failed(cell, error, **more))
        else:
            more = {"asked": cell.precision, "cell": cell, "host": host, "arrays": arrays}
            found.append(CellOutputs.ran(cell, opened.loaded, **more))
    progress.step(1, 1, "")
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
