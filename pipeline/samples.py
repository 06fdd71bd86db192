"""Which images calibrate int8, and which become goldens: digits, a user's, or synthetic ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exporters.sources import CALIBRATED_WEIGHTS, Source
from . import dataset, goldens
from .config import SYNTHETIC, ExportConfig
from .dataset import Dataset
from .errors import UsageError

# Fewer goldens than this can't carry parity's claim about top-1, whatever they say.
FEWEST_GOLDENS = 16


@dataclass(frozen=True)
class Samples:
    """``calibration`` is ``None`` where nothing is to be calibrated.

    ``origin`` is where the images are from: "digits", "folder" or "synthetic".
    """

    origin: str
    goldens: Dataset
    calibration: Dataset | None
    notes: tuple[str, ...] = ()

    def about(self, images: Dataset) -> dict[str, Any]:
        """For the manifest: where some of them are from, how many there are, what they are."""
        return {"from": self.origin, "count": len(images), "digest": images.digest}


def choose(config: ExportConfig, source: Source, int8: tuple[str, ...]) -> Samples:
    """The images of an export. ``int8`` are the variants that need calibration.

    Raises ``UsageError`` if there are none to calibrate with, ``InputError`` for a folder that
    can't be used.
    """
    count = config.calibration_images
    if config.calibration is not None and str(config.calibration) != SYNTHETIC:
        return _of_folder(config.calibration, count, source.labels or (), bool(int8))
    if config.calibration is None and source.weights in CALIBRATED_WEIGHTS:
        held_out = dataset.digits("held_out", goldens.COUNT)
        return Samples("digits", held_out, dataset.digits("train", count) if int8 else None)
    if config.calibration is None and int8:
        raise refusal(source.weights, int8)
    recorded = dataset.synthetic(count, goldens.COUNT)
    notes = ("synthetic goldens: noise, not photographs; --calibration DIR takes yours",)
    if not int8:
        return Samples(SYNTHETIC, recorded, None, notes)
    notes += (f"{', '.join(int8)}: calibrated on noise, which says nothing about real images",)
    return Samples(SYNTHETIC, recorded, dataset.synthetic(0, count), notes)


def refusal(weights: str, int8: tuple[str, ...]) -> UsageError:
    """For int8 variants with nothing to calibrate them with."""
    return UsageError(
        f"{', '.join(int8)}: no images to calibrate with come with {weights} weights: use "
        f"--calibration DIR, --variant fp32, or --calibration {SYNTHETIC} just to try"
    )


def _of_folder(folder: Path, count: int, labels: tuple[str, ...], int8: bool) -> Samples:
    """A sample of a folder, cut into goldens and, held apart from them, images to calibrate."""
    listing = dataset.list_images(folder)
    wanted = count if int8 else 0
    files = listing.sample(wanted + goldens.COUNT)
    notes = list(listing.notes)
    if listing.classes and len(listing.files) == 1:
        notes.append(f"{folder}: one class only, the others may need other ranges")
    apart = max(FEWEST_GOLDENS, min(goldens.COUNT, len(files) - wanted))
    recorded, rest = files[:apart], files[apart:]
    if int8 and len(files) < 2 * FEWEST_GOLDENS:
        recorded, rest = files[: goldens.COUNT], files
        notes.append(f"{folder}: {len(files)} images only: the goldens calibrate, too")
    if int8 and len(rest) < count:
        notes.append(f"{folder}: {len(rest)} images to calibrate with, {count} asked for")
    if len(recorded) < FEWEST_GOLDENS:
        notes.append(f"{folder}: {len(recorded)} goldens are too few for parity")
    calibration = dataset.of_files(rest, labels) if int8 else None
    return Samples("folder", dataset.of_files(recorded, labels), calibration, tuple(notes))
