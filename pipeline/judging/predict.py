"""predict: what a cell says about images. Decoding runs ahead, a bad image costs only itself."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...runners import images
from ...runners.base import RunnerUnavailable, SessionError
from ...runners.bundles.scores import kind_in, probabilities, scores_in
from ...runners.images import Preprocessing, normalize
from ..cells.plan import plan
from ..cells.session import OpenCell, open_cell
from ..errors import ExitCode, InputError, UsageError
from ..numerics.precision import EXACT, GIVEN
from ..progress import Progress
from ..settings.judging import CellsConfig, PredictConfig, PredictRequest
from ..settings.load import load_exported
from ..settings.machine import Places
from ..settings.options import takes
from ..storage import dataset
from ..storage.dataset import Decoded
from ..storage.document import UNWRITTEN, Document
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace

STDIN = "-"


@dataclass(frozen=True)
class Guess:
    """One class that an image may be of. ``label`` is its number where the model has no labels."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a cell says about one image, or in ``error`` why nothing. Times are in ms.

    ``decode_ms`` is from the file to the model's input size, ``run_ms`` the session's run that
    the image was part of.
    """

    image: str
    error: str | None = None
    top: tuple[Guess, ...] = ()
    decode_ms: float | None = None
    run_ms: float | None = None


@dataclass(frozen=True)
class PredictResult(Document):
    """The predictions in the order of the images; ``scores`` is what the model's output was.

    ``preprocessing`` is how an image became the model's input, as the manifest has it. ``isa`` is
    the instruction set in oneDNN's own words, on a target that computes as an older CPU.
    """

    MADE_BY = "edgepipe predict"

    model: Mapping[str, Any]
    variant: str
    runner: str
    target: str
    precision: str
    threads: int
    scores: str
    predictions: tuple[Prediction, ...]
    preprocessing: Mapping[str, Any]
    isa: str | None = None
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)


@takes(PredictRequest)
def predict(request: PredictRequest) -> PredictResult:
    """Classify images: files, folders, patterns, or "-" for a list of files on stdin.

    The keywords are the keys of ``[predict]``. Raises what ``errors.EXIT_CODES`` lists; an image
    that can't be read is part of the result, whose ``exit_code`` says so.
    """
    config = load_exported(request.flags())
    place = Workspace(config.workspace, config.model)
    names = [str(name) for name in request.images]
    with place.exported("edgepipe predict", request.progress.say) as manifest:
        wanted, places = config.predict, config.places
        return _predict(place, manifest, wanted, places, names, request.progress)


def _predict(
    workspace: Workspace,
    manifest: Manifest,
    wanted: PredictConfig,
    places: Places,
    names: Sequence[str],
    progress: Progress,
) -> PredictResult:
    """Classify images. The workspace is locked and verified.

    An image that can't be read keeps its reason, the others are answered, and the exit code
    is 3. Raises ``UsageError`` for a model that is no image classifier, ``InputError`` where
    there is no image at all, and ``RunnerError`` if the cell fails.
    """
    if manifest.model["classes"] is None:
        raise UsageError(f"{workspace.folder}: no image classifier, so there is nothing to predict")
    section = CellsConfig(
        runners=(wanted.runner,),
        variants=(wanted.variant or (GIVEN if manifest.given_alone else EXACT),),
        targets=(wanted.target,),
        precisions=(wanted.precision,),
        threads=wanted.threads,
        trust_workspace=wanted.trust_workspace,
    )
    cells, refused = plan(workspace.folder, manifest, section, places)
    if not cells:
        raise RunnerUnavailable(refused[0].reason)
    cell = cells[0]
    preprocessing = Preprocessing.from_json(manifest.preprocessing)
    files = list(expand(names, sys.stdin, preprocessing.bands))
    if not files:
        raise InputError("no images to predict")
    images.pillow()  # without it no image comes to its size: say so before anything starts
    found: list[Prediction] = []
    kinds: set[str] = set()
    with open_cell(cell, workspace.folder / cell.file) as opened:
        decoded = dataset.decode(files, preprocessing, wanted.decoders)
        for group in _groups(decoded, opened.batch):
            rows, kind = _classify(opened, group, preprocessing, manifest, wanted.top)
            kinds |= kind
            found += rows
            progress.step(len(found), len(files), group[-1].file)
        placement = opened.loaded.placement
    failed = any(prediction.error for prediction in found)
    return PredictResult(
        model=manifest.model,
        variant=cell.variant,
        runner=cell.runner,
        target=cell.target.name,
        precision=placement.precision,
        threads=placement.threads,
        scores=" and ".join(sorted(kinds)),
        predictions=tuple(found),
        preprocessing=preprocessing.to_json(),
        isa=placement.isa,
        exit_code=ExitCode.BAD_INPUT if failed else ExitCode.OK,
    )


def expand(names: Sequence[str], lines: Iterable[str], bands: int | None = None) -> Iterator[str]:
    """The image files that arguments name: files, folders, patterns, "-" for a list in ``lines``.

    Of a folder those that are pictures, or with ``bands`` arrays (``images.load_image``).
    What isn't there stays as it is, so that its own line in the result says so. Raises
    ``InputError`` for a folder without images.
    """
    for name in names:
        path = Path(name)
        if name == STDIN:
            yield from (line.rstrip("\r\n") for line in lines if line.strip())
        elif path.is_dir():
            listing = dataset.list_images(path, bands)
            yield from (str(file) for files in listing.files.values() for file in files)
        elif not path.exists() and glob.has_magic(name):
            yield from sorted(glob.glob(name, recursive=True)) or [name]
        else:
            yield name


def _groups(decoded: Iterable[Decoded], batch: int) -> Iterator[list[Decoded]]:
    """Runs of images with ``batch`` good ones in each, and the bad ones wherever they are."""
    group: list[Decoded] = []
    for one in decoded:
        group.append(one)
        if sum(member.pixels is not None for member in group) == batch:
            yield group
            group = []
    if group:
        yield group


def _classify(
    opened: OpenCell,
    group: Sequence[Decoded],
    preprocessing: Preprocessing,
    manifest: Manifest,
    top: int,
) -> tuple[list[Prediction], set[str]]:
    pixels = [one.pixels for one in group if one.pixels is not None]
    if not pixels:
        return [Prediction(one.file, one.error) for one in group], set()
    full = np.resize(np.stack(pixels), (opened.batch, *pixels[0].shape))
    feeds = {opened.loaded.inputs[0].name: normalize(full, preprocessing)}
    answer = opened.worker.run(feeds)
    output, classes = opened.loaded.outputs[0].name, manifest.model["classes"]
    scores = scores_in(answer.arrays, output, len(full), classes)[: len(pixels)]
    if not np.all(np.isfinite(scores)):
        raise SessionError(f"output {output} is not finite: no scores")
    kind = kind_in(manifest.model, output)
    shares = probabilities(scores, kind)
    answers = iter(shares)
    found = []
    for one in group:
        if one.pixels is None:
            found.append(Prediction(one.file, one.error))
            continue
        guesses = _best(next(answers), manifest.labels, top)
        found.append(Prediction(one.file, None, guesses, one.decode_ms, answer.elapsed_ms))
    return found, {kind}


def _best(shares: np.ndarray, labels: tuple[str, ...] | None, top: int) -> tuple[Guess, ...]:
    order = np.argsort(-shares, kind="stable")[:top]
    return tuple(
        Guess(labels[index] if labels else str(index), int(index), float(shares[index]))
        for index in order
    )
