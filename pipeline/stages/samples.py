"""Which images calibrate int8, and which become goldens: digits, a user's, or synthetic ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...exporters.weights.sources import CALIBRATED_WEIGHTS
from ..errors import UsageError
from ..settings.making import DIGITS, SYNTHETIC, ExportConfig, InputsConfig
from ..storage import dataset, goldens
from ..storage.arrays import ArrayInput, Arrays
from ..storage.dataset import Dataset
from ..storage.manifest import Manifest
from .modelspec import ModelSpec, is_own

# Fewer goldens than this can't carry parity's claim about top-1, whatever they say.
FEWEST_GOLDENS = 16
GOLDEN_SEED, CALIBRATION_SEED, SEARCH_SEED = 0, 1000, 3000


@dataclass(frozen=True)
class Samples:
    """``calibration`` is ``None`` where nothing is to be calibrated.

    ``origin`` is where they are from: "digits", "folder", "file" or "synthetic".
    """

    origin: str
    goldens: Dataset | Arrays
    calibration: Dataset | Arrays | None
    notes: tuple[str, ...] = ()

    def about(self, some: Dataset | Arrays) -> dict[str, Any]:
        """For the manifest: where some of them are from, how many there are, what they are."""
        return {"from": self.origin, "count": len(some), "digest": some.digest}


def choose(config: InputsConfig, spec: ModelSpec, int8: tuple[str, ...]) -> Samples:
    """The inputs that an export needs, after ``check``. ``int8`` are the variants to calibrate.

    Raises ``InputError`` for a folder or a file that can't be used.
    """
    count, source = config.calibration_images, spec.source
    if spec.inputs:
        return _arrays(config, spec, int8)
    origin = str(config.calibration or "")
    if origin == DIGITS or (not origin and source.weights in CALIBRATED_WEIGHTS):
        held_out = dataset.digits("held_out", goldens.COUNT)
        return Samples(DIGITS, held_out, dataset.digits("train", count) if int8 else None)
    if config.calibration is not None and origin != SYNTHETIC:
        return _of_folder(config, spec, config.calibration, bool(int8))
    bands = spec.preprocessing.bands if spec.preprocessing else None
    recorded = dataset.synthetic(count, goldens.COUNT, bands)
    notes = ("synthetic goldens: noise, not photographs; --calibration DIR takes yours",)
    if not int8:
        return Samples(SYNTHETIC, recorded, None, notes)
    notes += (f"{', '.join(int8)}: calibrated on noise, which says nothing about real images",)
    return Samples(SYNTHETIC, recorded, dataset.synthetic(0, count, bands), notes)


def again(
    manifest: Manifest, calibration: Path | None, count: int
) -> tuple[Samples, Dataset | Arrays | None]:
    """The calibration samples of an export, and up to ``count`` further ones that it never saw.

    ``calibration`` is the folder or file that they came from. Raises ``UsageError`` where it is
    missing, and where other images lie in it now.
    """
    model, labels = manifest.model, manifest.labels or ()
    recorded, kept = model["calibration"], model["goldens"]
    if recorded is None:
        raise UsageError(
            f"nothing was calibrated: run `{manifest.made_by}` with an int8 variant first"
        )
    source, number = recorded["from"], recorded["count"]
    preprocessing = goldens.preprocessing_of(manifest)
    bands = preprocessing.bands if preprocessing else None
    inputs = tuple(ArrayInput.read(text) for text in model["named_inputs"])
    if source in ("folder", "file", "data") and calibration is None:
        raise UsageError(f"--calibration: give the {source} that the export was calibrated with")
    further: Dataset | Arrays | None = None
    if source == DIGITS:
        used = dataset.digits("train", number)
        further = dataset.digits("train", number + count).behind(number)
    elif source == "file":
        assert calibration
        used = Arrays.load(calibration, inputs, number)
    elif source == "data":
        assert calibration
        every = Arrays.load(calibration, inputs)
        start = 0 if len(every) < 2 * FEWEST_GOLDENS else kept["count"]
        used = every.part(start, number)
        further = every.part(start + number, count) if len(every) > start + number else None
    elif source == "folder":
        assert calibration
        every = dataset.list_images(calibration, bands)
        shared = len(every.every) < 2 * FEWEST_GOLDENS
        start = 0 if shared else kept["count"]
        files = every.sample(start + number + count)[start:]
        used = dataset.of_files(files[:number], labels, every.every, bands)
        if files[number:]:
            further = dataset.of_files(files[number:], labels, every.every, bands)
    elif inputs:
        used = Arrays.random(inputs, number, CALIBRATION_SEED)
        further = Arrays.random(inputs, count, SEARCH_SEED)
    else:
        used = dataset.synthetic(0, number, bands)
        further = dataset.synthetic(number + kept["count"], count, bands)
    if used.digest != recorded["digest"]:
        raise UsageError(
            f"--calibration {calibration}: not the images that the export was calibrated with; "
            f"run `{manifest.made_by}` with them first"
        )
    return Samples(source, used, used), further


def check(export: ExportConfig, int8: tuple[str, ...]) -> None:
    """Refuse int8 without images before any weights are looked for, or downloaded."""
    own = export.checkpoint or is_own(export.architecture or "")
    given = export.calibration or export.data
    if int8 and not given and (own or export.weights not in CALIBRATED_WEIGHTS):
        weights = "your own" if own else export.weights
        raise UsageError(
            f"{', '.join(int8)}: nothing to calibrate with comes with {weights} weights: use "
            f"--calibration DIR, --variant fp32, or --calibration {SYNTHETIC} just to try"
        )


def _arrays(config: InputsConfig, spec: ModelSpec, int8: tuple[str, ...]) -> Samples:
    """Random goldens; to calibrate, the arrays of a file, or random ones as well.

    ``data`` is a file of both, held apart as those of a folder are.
    """
    if config.data:
        return _of_data(config, config.data, spec, bool(int8))
    recorded = Arrays.random(spec.inputs, goldens.COUNT, GOLDEN_SEED)
    if not int8:
        return Samples(SYNTHETIC, recorded, None)
    assert config.calibration
    if str(config.calibration) != SYNTHETIC:
        loaded = Arrays.load(config.calibration, spec.inputs, config.calibration_images)
        return Samples("file", recorded, loaded)
    notes = (f"{', '.join(int8)}: calibrated on noise, which says nothing about real inputs",)
    calibration = Arrays.random(spec.inputs, config.calibration_images, CALIBRATION_SEED)
    return Samples(SYNTHETIC, recorded, calibration, notes)


def _of_data(config: InputsConfig, file: Path, spec: ModelSpec, int8: bool) -> Samples:
    count = config.calibration_images
    every = Arrays.load(file, spec.inputs)
    total = len(every)
    held_out = _held_out(total)
    shared = held_out == total
    rest = every.part(0 if shared else held_out, count)
    notes = _shortages(file, "samples", total, held_out, len(rest), count if int8 else 0)
    return Samples("data", every.part(0, held_out), rest if int8 else None, tuple(notes))


def _held_out(total: int) -> int:
    """How many of so many become goldens: all where there are too few to share."""
    if total < 2 * FEWEST_GOLDENS:
        return total
    return min(goldens.COUNT, max(FEWEST_GOLDENS, total // 3))


def _shortages(
    where: Path, what: str, total: int, held_out: int, rest: int, asked: int
) -> Iterator[str]:
    """What there is too little of; ``asked`` is how many were to calibrate, 0 for none."""
    if asked and held_out == total:
        yield f"{where}: {total} {what} only: the goldens calibrate, too"
    if rest < asked:
        yield f"{where}: {rest} {what} to calibrate with, {asked} asked for"
    if held_out < FEWEST_GOLDENS:
        yield f"{where}: {held_out} goldens are too few for parity"


def _of_folder(config: InputsConfig, spec: ModelSpec, folder: Path, int8: bool) -> Samples:
    """Goldens out of a folder and, held apart from them, images to calibrate with.

    How many become goldens depends on the folder alone, so that they stay the same.
    """
    count, labels = config.calibration_images, spec.source.labels or ()
    bands = spec.preprocessing.bands if spec.preprocessing else None
    listing = dataset.list_images(folder, bands)
    if config.skip_unreadable:
        listing = listing.readable()
    every = listing.every
    total = len(every)
    held_out = _held_out(total)
    shared = held_out == total
    files = listing.sample(held_out + count)
    recorded, rest = files[:held_out], files if shared else files[held_out:]
    notes = list(listing.notes)
    if listing.classes and len(listing.files) == 1:
        notes.append(f"{folder}: one class only, the others may need other ranges")
    notes += _shortages(folder, "images", total, held_out, len(rest), count if int8 else 0)
    calibration = dataset.of_files(rest[:count], labels, every, bands) if int8 else None
    kept = dataset.of_files(recorded, labels, every, bands)
    return Samples("folder", kept, calibration, tuple(notes))
