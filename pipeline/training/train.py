"""train: fine-tune a model of the zoo on a folder of images. Plain torch, one process, the CPU.

It closes the life cycle and competes with no training framework: class folders in, a checkpoint
out that ``edgepipe export --checkpoint`` takes. After each epoch everything that the next one
needs is written beside it, so that a killed run goes on where it was and ends in the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...exporters.weights import checkpoints, sources
from ...runners import documents
from ...runners.images import Preprocessing
from ...runners.machine.files import cache_folder
from ...runners.machine.installed import versions
from ..errors import InputError, MissingLibrary, UsageError
from ..settings.load import load
from ..settings.making import TrainConfig, TrainRequest
from ..settings.options import takes
from ..storage import dataset as datasets
from ..storage.atomic import write_whole
from ..storage.dataset import Dataset
from ..storage.document import Document
from .epochs import Epoch, Start, Training, reproducible, select
from .resume import TrainingState

STATE_SUFFIX, RESULT_SUFFIX, PLOT_SUFFIX = ".state", ".json", ".svg"


@dataclass(frozen=True)
class TrainResult(Document):
    """``confusion[i][j]`` counts held-out images of class i that were taken for class j.

    ``top1`` (per cent of the ``held_out`` images) and ``confusion`` are the best epoch's,
    whose weights are in ``output``. Those images chose the epoch by their loss, so that new ones
    may do a little worse: ``edgepipe evaluate --data`` of images set aside tells.
    ``resumed_after`` is the epoch that a killed run had done.
    """

    MADE_BY = "edgepipe train"

    output: Path
    data: str
    architecture: str
    labels: tuple[str, ...]
    images: int
    held_out: int
    epochs: tuple[Epoch, ...]
    best: int
    top1: float
    confusion: tuple[tuple[int, ...], ...]
    stopped_early: bool
    resumed_after: int
    notes: tuple[str, ...]


@takes(TrainRequest)
def train(request: TrainRequest) -> TrainResult:
    """Fine-tune a model of the zoo on a folder of images; writes a checkpoint for ``export``.

    ``output`` is the file of weights, ``MODEL-DATA.safetensors`` by default; beside it stand
    ``.json`` (the result) and ``.state`` (for going on, until it is done). A run that was killed
    goes on after its last epoch, unless ``restart``. The other keywords are the keys of
    ``[train]``. Raises ``InputError`` for images that can't be learnt from, ``ModelError`` for
    weights that don't fit, ``UsageError`` for a state that other settings left there.
    """
    config = load(request.flags())
    section, progress, restart = config.train, request.progress, request.restart
    name = section.data.resolve().name if section.data else ""
    output = request.output or Path(f"{config.model}-{name}.safetensors")
    if section.data is None:
        raise UsageError("train needs images: --data DIR, with a folder for each class")
    listing = datasets.list_images(section.data)
    if section.skip_unreadable:
        listing = listing.readable()
    if not listing.classes:
        raise InputError(f"{section.data}: its images are in no class folders: DIR/CLASS/FILE")
    for name, files in listing.files.items():
        if len(files) < 2:
            raise InputError(f"{section.data / name}: one image; at least 2 are needed of a class")
    if len(listing.files) < 2:
        raise InputError(f"{section.data}: one class only: there is nothing to tell apart")
    labels = tuple(listing.files)
    images = replace(
        datasets.of_files(listing.every, labels), name=str(section.data), notes=listing.notes
    )
    learnt, held_out = split(images, section.held_out, section.seed)
    start = _start(section, config.model, "model" in config.model_fields_set)
    settings = {
        **section.model_dump(mode="json", exclude={"data", "threads", "skip_unreadable"}),
        "model": start.architecture,
        "width": start.width,
        "images": images.digest,
        "labels": labels,
        "weights": start.digest,
        "preprocessing": start.preprocessing.to_json(),
        **versions("edgepipe", "torch"),
    }
    for note in images.notes:
        progress.say(f"warning: {note}")
    progress.say(
        f"{start.architecture}, {start.preprocessing.size} pixels, {len(labels)} classes: "
        f"{len(learnt)} images to learn from, {len(held_out)} held out"
    )
    try:
        with reproducible(section):
            run = Training(section, start, labels, (learnt, held_out), progress)
            state = TrainingState(output.with_suffix(STATE_SUFFIX), settings)
            run.go_on(state, restart)
            best, confusion = run.finish()
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[export]"') from error
    result = TrainResult(
        output,
        str(section.data),
        start.architecture,
        labels,
        len(learnt),
        len(held_out),
        tuple(run.history),
        best.number,
        best.top1,
        tuple(tuple(int(count) for count in row) for row in confusion),
        stopped_early=len(run.history) < section.epochs,
        resumed_after=run.resumed_after,
        notes=(*images.notes, *_doubts(best, held_out)),
    )
    trained_on = {
        "name": section.data.name,
        "digest": images.digest,
        "images": result.images,
        "held_out": result.held_out,
        "top1": result.top1,
    }
    write_whole(output, run.checkpoint(trained_on))
    write_whole(output.with_suffix(RESULT_SUFFIX), documents.text(result.to_json()).encode())
    state.remove()
    return result


def split(images: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Images to learn from and images to judge by: ``share`` of each class, at least one."""
    random = np.random.default_rng(seed)
    learnt: list[int] = []
    held_out: list[int] = []
    for label in np.unique(images.labels):
        rows = random.permutation(np.flatnonzero(images.labels == label))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held_out += rows[:count].tolist()
        learnt += rows[count:].tolist()
    return select(images, sorted(learnt)), select(images, sorted(held_out))


def _doubts(best: Epoch, held_out: Dataset) -> tuple[str, ...]:
    """What to tell of a network that has learnt nothing: always naming one class does as well."""
    by_chance = 100 * float(np.bincount(held_out.labels).max()) / len(held_out)
    if best.top1 > by_chance:
        return ()
    return (
        f"nothing was learnt: always naming the commonest class is right in {by_chance:.2f} %; "
        "try more epochs or --patience, more images, or --init with learnt weights",
    )


def _start(section: TrainConfig, model: str, named: bool) -> Start:
    """The weights to start from and their preprocessing, from the configuration."""
    if section.init is not None:
        if "weights" in section.model_fields_set:
            raise UsageError("train: --init has its own weights, leave --weights out")
        architecture = model
        if not named:
            architecture = checkpoints.read_metadata(section.init).architecture or architecture
        source = sources.resolve_checkpoint(architecture, section.init, None, section.width)
    else:
        source = sources.resolve(model, section.weights, section.width, cache=cache_folder())
    if source.preprocessing is None:
        raise InputError(
            f"{section.init}: nothing says what preprocessing it was trained with; "
            "start from a file that edgepipe train wrote, or from --weights imagenet"
        )
    preprocessing = Preprocessing.from_json(source.preprocessing).at(section.input_size)
    if not isinstance(preprocessing.size, int) or len(preprocessing.mean) != 3:
        raise InputError(f"{section.init}: train takes square images of three channels only")
    return Start(source.architecture, source.width, preprocessing, source.digest, source.path)
