"""evaluate: the accuracy of a cell on labelled images, and what it lost against fp32.

All cells see the same images, a chunk at a time: a chunk is decoded and normalized once and goes
through every open worker in turn. Decoding for each cell again would cost more than running it
(a JPEG of 640 x 480 takes about as long as fp32, a larger one longer), and all images at once
would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...exporters.weights.sources import CALIBRATED_WEIGHTS, FILE
from ...runners import images
from ...runners.base import RunnerError
from ...runners.images import Preprocessing
from ...runners.targets import LOCAL
from ...runners.workers.answers import Loaded
from ..cells import arithmetic
from ..cells.arithmetic import Arithmetic
from ..cells.cluster import kept
from ..cells.cluster.spread import Spread, spread
from ..cells.cluster.tasks import PLACES
from ..cells.plan import plan
from ..cells.scoring import chunk_of, score, scored_batch
from ..cells.session import Cell, OpenCell, Opener, run_goldens
from ..errors import UsageError, WorkspaceError
from ..numerics import paired
from ..numerics.intervals import wilson
from ..numerics.precision import EXACT, kind_of
from ..progress import Progress
from ..settings.judging import EvaluateConfig, EvaluateRequest, GateConfig
from ..settings.load import load_exported
from ..settings.machine import Places
from ..settings.options import takes
from ..stages.quantize import saturates
from ..storage import dataset
from ..storage.dataset import Dataset
from ..storage.goldens import FILE as GOLDENS
from ..storage.goldens import Goldens
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace
from ..verdicts import FAIL, INCONCLUSIVE, exit_code
from .evaluate_result import CellAccuracy, CellName, EvaluationResult
from .gates import gate_of, judge, unreliable
from .judgement import TWICE, Judgement

COMMAND = "evaluate"
TOP = 5
# Workers that are open at the same time; with more cells the images are decoded once more.
MOST_WORKERS = 8
# Whose fp32 the others are compared with, where it can be had.
REFERENCE_RUNNER = "ort-cpu"


@dataclass
class _Run:
    """A cell on its way through the images: the place of the true class for each one so far."""

    cell: Cell
    loaded: Loaded | None = None
    host: Mapping[str, Any] = field(default_factory=dict)
    error: RunnerError | None = None
    places: list[np.ndarray] = field(default_factory=list)
    judgement: Judgement | None = None

    def score(self, opened: OpenCell, tensor: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """Run float32 ``[n, C, H, W]`` and note where its true classes come. Keeps the error."""
        try:
            self.places.append(score(opened, tensor, labels, classes))
        except RunnerError as error:
            self.error = error


@dataclass(frozen=True)
class _Twice:
    """Says of an int8 cell what its file and its kernels cost, on the goldens."""

    goldens: Goldens | None
    own: Mapping[str, Arithmetic]
    limits: Mapping[str, GateConfig]

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        workspace: Workspace,
        manifest: Manifest,
        limits: Mapping[str, GateConfig],
    ) -> tuple[_Twice, list[str]]:
        """For these cells, with what there is to say about those that it can't be told of."""
        own, notes = dict[str, Arithmetic](), list[str]()
        for variant in dict.fromkeys(cell.variant for cell in cells):
            try:
                found = arithmetic.of_workspace(workspace.folder, manifest, variant)
            except WorkspaceError as error:
                notes.append(
                    f"what the file and the kernels of {variant} cost is not known: {error}"
                )
            else:
                own |= {variant: found} if found else {}
        goldens = Goldens.load(workspace.folder / GOLDENS) if own else None
        return cls(goldens, own, limits), notes

    def asks(self, cell: Cell) -> Goldens | None:
        """The goldens, if the cell is to run them."""
        return self.goldens if cell.variant in self.own else None

    def judge(self, run: _Run, outputs: Mapping[str, np.ndarray]) -> None:
        """Judge what a cell that was asked gave for the goldens."""
        cell, goldens = run.cell, self.asks(run.cell)
        if goldens is None:
            return
        precise = goldens.reference_sqnr_db
        gate = gate_of(cell.variant, cell.runner, cell.precision, precise, self.limits)
        own, inexact = self.own[cell.variant].outputs, saturates(cell.variant, run.host)
        found = judge(outputs, goldens.fp32, gate, own=own, saturates=inexact)
        kind = kind_of(cell.variant, cell.precision)
        run.judgement = found.without(unreliable(kind, gate, precise))


@takes(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Judge the accuracy of every cell on labelled images against fp32's on the same ones.

    Writes ``evaluation.json`` into the workspace. The keywords are the keys of ``[evaluate]``.
    Raises what ``errors.EXIT_CODES`` lists; verdicts are in the result.
    """
    config = load_exported(request.flags())
    place = Workspace(config.workspace, config.model)
    with place.exported("edgepipe evaluate", request.progress.say) as manifest:
        places, limits = config.places, config.gates
        result = _evaluate(place, manifest, config.evaluate, places, limits, request.progress)
        place.write(result)
        kept.forget(place.folder, COMMAND)
    return result


def _evaluate(
    workspace: Workspace,
    manifest: Manifest,
    section: EvaluateConfig,
    places: Places,
    limits: Mapping[str, GateConfig],
    progress: Progress,
) -> EvaluationResult:
    """Judge every cell that the section asks for. The workspace is locked and verified.

    A cell that fails keeps its reason and the others go on. Raises ``UsageError`` where there
    are no images to judge on, ``InputError`` for an image or a folder that can't be used.
    """
    if manifest.model["classes"] is None:
        raise UsageError(
            f"{workspace.folder}: no image classifier, so there are no right answers to count"
        )
    cells, refused = plan(workspace.folder, manifest, section, places)
    data = _dataset(manifest, section)
    for note in data.notes:
        progress.say(f"warning: {note}")

    twice, unknown = _Twice.of(cells, workspace, manifest, limits)

    candidates, missing = _reference_candidates(workspace.folder, manifest, section, places)
    about = {"artifacts": manifest.digests, "data": data.digest}
    every = [*candidates, *cells]
    with spread(section.cluster, COMMAND, workspace.folder, every, about, progress) as cluster:

        def run(some: Sequence[Cell]) -> dict[Cell, _Run]:
            if cluster:
                return _run_spread(
                    some, data, twice, manifest, section.decoders_on_cluster, cluster
                )
            return _run_all(some, data, twice, workspace, manifest, section.decoders, progress)

        runs = run(list(dict.fromkeys([*candidates[:1], *cells])))
        reference = None
        for cell in candidates:
            if cell not in runs and any(one.error is None for one in runs.values()):
                runs |= run([cell])
            if cell in runs and runs[cell].error is None:
                reference = runs[cell]
                break
    if reference and reference.cell != candidates[0]:
        missing = f"{candidates[0]} failed: {runs[candidates[0]].error}"
    notes = [*data.notes, *unknown, *_notes(manifest, runs, reference, missing)]
    shown = [one for cell, one in runs.items() if cell in cells or one is reference]
    rows = [_row(one, reference, manifest, section.max_drop) for one in shown]
    rows += [CellAccuracy.refused(one) for one in refused]
    return EvaluationResult(
        model=manifest.model,
        artifacts=manifest.digests,
        hosts={one.cell.target.name: one.host for one in shown if one.loaded},
        data={
            "name": data.name,
            "images": len(data),
            "classes": data.classes,
            "digest": data.digest,
        },
        max_drop=section.max_drop,
        reference=_name(reference.cell) if reference else None,
        notes=tuple(notes),
        cells=tuple(rows),
        cluster=cluster.use if cluster else None,
        exit_code=exit_code(rows, section.runners),
    )


def _dataset(manifest: Manifest, section: EvaluateConfig) -> Dataset:
    images.pillow()  # without it no image comes to its size: say so before anything starts
    if section.data is not None:
        labels = manifest.labels or [str(number) for number in range(manifest.model["classes"])]
        skip = section.skip_unreadable
        bands = Preprocessing.from_json(manifest.preprocessing).bands
        return dataset.class_folders(section.data, list(labels), skip, bands)
    weights = manifest.model["weights"]
    if weights not in CALIBRATED_WEIGHTS:
        whose = "an imported file" if weights == FILE else f"{weights} weights"
        raise UsageError(f"no labelled images come with {whose}: name some with --data")
    return dataset.digits()


def _reference_candidates(
    folder: Path, manifest: Manifest, section: EvaluateConfig, places: Places
) -> tuple[list[Cell], str | None]:
    """Cells that can be the reference, best first: float32 here on ``ort-cpu``, or elsewhere.

    Also why the best of all, ``ort-cpu``, isn't one of them, where it isn't.
    """
    exact = section.model_copy(update={"variants": (EXACT,), "precisions": ("f32",)})
    best = exact.model_copy(update={"runners": (REFERENCE_RUNNER,), "targets": (LOCAL.name,)})
    first, refused = plan(folder, manifest, best, places)
    others, _ = plan(folder, manifest, exact, places)
    others.sort(key=lambda cell: cell.target.name != LOCAL.name)
    missing = f"{REFERENCE_RUNNER} can't be used: {refused[0].reason}" if refused else None
    return list(dict.fromkeys([*first, *others])), missing


def _run_all(
    cells: Sequence[Cell],
    data: Dataset,
    twice: _Twice,
    workspace: Workspace,
    manifest: Manifest,
    decoders: int,
    progress: Progress,
) -> dict[Cell, _Run]:
    """Run all images through all cells, a few workers at a time."""
    runs = {cell: _Run(cell) for cell in cells}
    preprocessing = Preprocessing.from_json(manifest.preprocessing)
    opener = Opener()
    for start in range(0, len(cells), MOST_WORKERS):
        group = [runs[cell] for cell in cells[start : start + MOST_WORKERS]]
        with ExitStack() as workers:
            opened: dict[Cell, OpenCell] = {}
            for run in group:
                progress.step(0, len(data), f"starting {run.cell}")
                try:
                    model = workspace.folder / run.cell.file
                    one = workers.enter_context(opener.open(run.cell, model))
                    run.loaded, run.host = one.loaded, one.worker.hello["host"]
                    if goldens := twice.asks(run.cell):
                        twice.judge(run, run_goldens(one, goldens, preprocessing))
                    opened[run.cell] = one
                except RunnerError as error:
                    run.error = error
            _walk(group, opened, data, preprocessing, manifest.model["classes"], decoders, progress)
    progress.step(1, 1, "")
    return runs


def _run_spread(
    cells: Sequence[Cell],
    data: Dataset,
    twice: _Twice,
    manifest: Manifest,
    decoders: int,
    cluster: Spread,
) -> dict[Cell, _Run]:
    """As ``_run_all``, on a cluster."""
    preprocessing = Preprocessing.from_json(manifest.preprocessing)
    asked = [cell for cell in cells if twice.asks(cell)]
    count = len(twice.goldens) if twice.goldens else 0
    seen = cluster.goldens(asked, cluster.folder / GOLDENS, preprocessing, count)
    seen |= cluster.look([cell for cell in cells if cell not in seen])
    runs = {
        cell: _Run(cell, seen[cell].loaded, seen[cell].host, seen[cell].error) for cell in cells
    }
    for cell, run in runs.items():
        try:
            if run.error is None:
                twice.judge(run, seen[cell].arrays())
        except RunnerError as error:
            run.error = seen[cell].error = error
    classes = manifest.model["classes"]
    found = cluster.places(
        {cell: seen[cell] for cell in cells}, data, preprocessing, classes, decoders
    )
    for cell, run in runs.items():
        run.error = found[cell].error
        run.places = [] if run.error else [found[cell].arrays()[PLACES]]
    return runs


def _walk(
    group: Sequence[_Run],
    opened: Mapping[Cell, OpenCell],
    data: Dataset,
    preprocessing: Preprocessing,
    classes: int,
    decoders: int,
    progress: Progress,
) -> None:
    """Take the images chunk by chunk through the runs that are still well."""
    active = [run for run in group if run.error is None]
    if not active:
        return
    done = 0
    size = chunk_of([opened[run.cell].loaded for run in active])
    for tensor, labels in data.tensors(preprocessing, size, decoders):
        for run in active:
            progress.step(done, len(data), str(run.cell))
            run.score(opened[run.cell], tensor, labels, classes)
        done += len(labels)
        active = [run for run in active if run.error is None]


def _row(
    run: _Run, reference: _Run | None, manifest: Manifest, limit: float | None
) -> CellAccuracy:
    cell = run.cell
    if run.error is not None:
        return CellAccuracy.failed(cell, run.error)
    assert run.loaded
    found, classes = np.concatenate(run.places), manifest.model["classes"]
    count, correct = len(found), int(np.count_nonzero(found == 0))
    row = CellAccuracy.ran(
        cell,
        run.loaded,
        images=count,
        correct=correct,
        top1=correct / count,
        top1_ci95=wilson(correct / count, count, paired.Z_95),
        top5=float(np.mean(found < TOP)) if classes > TOP else None,
        batch=scored_batch(run.loaded),
    )
    if run.judgement:
        figures = run.judgement.figures()
        row = replace(row, fault=run.judgement.fault, **{name: figures[name] for name in TWICE})
    failures = []
    if row.precision != cell.precision:
        failures.append(f"computed in {row.precision}, {cell.precision} was asked for")
    if broken := np.count_nonzero(found == classes):
        failures.append(f"the outputs of {broken} images are NaN or infinite")
    verdict, reason, needed, drop = None, "", None, None
    if reference is None:
        verdict, reason = None if limit is None else INCONCLUSIVE, "no fp32 to compare with"
    elif reference is not run:
        drop = paired.drop(np.concatenate(reference.places) == 0, found == 0)
        if limit is not None:
            verdict, reason, needed = paired.judge(drop, count, limit)
    if failures:
        verdict, needed = FAIL, None
    reason = "; ".join([*failures, *([reason] if reason else [])])
    return replace(row, verdict=verdict, reason=reason or None, images_needed=needed, drop=drop)


def _notes(
    manifest: Manifest, runs: Mapping[Cell, _Run], reference: _Run | None, missing: str | None
) -> list[str]:
    """``missing`` is why the reference is not the one that it is by default."""
    notes = []
    if not manifest.model["trained"]:
        notes.append("random weights: these figures mean nothing")
    if manifest.model["classes"] <= TOP:
        notes.append(f"no top-{TOP}: the model has {manifest.model['classes']} classes")
    notes += [
        f"{cell}: parity finds {run.judgement.fault} at fault: {'; '.join(run.judgement.reasons)}"
        for cell, run in runs.items()
        if run.judgement and run.judgement.fault
    ]
    if reference and missing:
        notes.append(f"drops are counted from {reference.cell}, since {missing}")
    return notes


def _name(cell: Cell) -> CellName:
    return {"variant": cell.variant, "runner": cell.runner, "target": cell.target.name}
