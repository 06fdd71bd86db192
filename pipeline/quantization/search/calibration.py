"""The images of an export once more: those that calibrated it, and further ones."""

from __future__ import annotations

from ...errors import UsageError
from ...settings.making import QuantizeConfig
from ...stages import samples
from ...stages.native import Native
from ...stages.quantize import CALIBRATION, Calibrate, calibration_batch
from ...storage.arrays import Arrays
from ...storage.dataset import Dataset
from ...storage.goldens import preprocessing_of
from ...storage.manifest import Manifest

# Images that candidates are judged on.
SEEN = 64


def calibration(
    manifest: Manifest, section: QuantizeConfig, native: Native
) -> tuple[Calibrate, Dataset | Arrays | None]:
    """The stage that calibrated, with its images, and further ones."""
    if CALIBRATION not in manifest.artifacts:
        raise UsageError(
            f"nothing was calibrated: run `{manifest.made_by}` with an int8 variant first"
        )
    chosen, further = samples.again(manifest, section.calibration, SEEN)
    count = calibration_batch(manifest.model["batch"])
    name = manifest.model["inputs"][0]["name"]
    shown = preprocessing_of(manifest)
    return Calibrate(shown, count, chosen, native, image_input=name), further
