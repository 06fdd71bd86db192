"""The embedded digits, which the default model was trained and is judged on."""

from __future__ import annotations

import numpy as np

from ...exporters.weights.sources import DIGITS_DATASET


def pictures(part: str) -> tuple[np.ndarray, np.ndarray]:
    """The embedded digits: ``part`` is "train" or "held_out".

    Returns images, uint8 ``[N, 8, 8]``, and labels, uint8 ``[N]``. They are the test set of
    UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, CC BY 4.0).
    """
    with np.load(DIGITS_DATASET) as archive:
        return archive[f"{part}_images"], archive[f"{part}_labels"]
