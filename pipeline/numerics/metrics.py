"""Numeric distance between the outputs of two executions of one model (pure numpy).

All functions take ``outputs`` and ``reference``, float arrays of one shape ``[N, ...]`` with
a sample in each row.
"""

from __future__ import annotations

import numpy as np

from ...runners.bundles.scores import sqnr_db as sqnr_db
from .precision import ASSUMED_DB

Array = np.ndarray


# What a distance is where it is no number, which JSON has no word for.
MEASURED, EQUAL, BROKEN, UNKNOWN = "measured", "equal", "broken", "not measured"
# Of a reference that nothing can be held against: see ``precision.ASSUMED_DB``.
ASSUMED = "assumed"


def finite(value: float | None) -> float | None:
    """The value as JSON has it: ``None`` for what is not finite, and ``state`` says which way."""
    return value if value is not None and np.isfinite(value) else None


def state(sqnr_db: float | None) -> str:
    """ "measured", "equal" bit for bit, "broken" (not finite, or of another shape), "not measured".

    With it a distance that was written as ``finite`` is known again: see ``distance``.
    """
    if sqnr_db is None or np.isnan(sqnr_db):
        return UNKNOWN
    return MEASURED if np.isfinite(sqnr_db) else EQUAL if sqnr_db > 0 else BROKEN


def distance(value: float | None, state: str) -> float:
    """What ``finite`` and ``state`` were made of."""
    if state == ASSUMED:
        return ASSUMED_DB
    return (np.inf if state == EQUAL else -np.inf) if value is None else value


class Noise:
    """``sqnr_db`` of arrays that come one batch after the other."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, outputs: Array, reference: Array) -> None:
        """Count in a batch; arrays of another shape than the reference's are all noise."""
        reference = np.asarray(reference, np.float64)
        if outputs.shape != reference.shape:
            self._noise = np.inf
            return
        with np.errstate(invalid="ignore"):
            power = float(np.sum((np.asarray(outputs, np.float64) - reference) ** 2))
        if np.isfinite(power):
            self._signal += float(np.sum(reference**2))
            self._noise += power
        else:
            self._noise = np.inf

    @property
    def sqnr_db(self) -> float:
        """See ``sqnr_db``."""
        if not np.isfinite(self._noise):
            return -np.inf
        if self._noise == 0:
            return np.inf
        ratio = self._signal / self._noise
        return 10 * float(np.log10(ratio)) if ratio else -np.inf


def max_abs(outputs: Array, reference: Array) -> float:
    """Largest absolute difference; infinite where any output is not finite."""
    difference = np.abs(np.asarray(outputs, np.float64) - np.asarray(reference, np.float64))
    return float(difference.max()) if np.all(np.isfinite(difference)) else np.inf


def top1_agreement(outputs: Array, reference: Array) -> float:
    """Share of samples whose largest output is at the reference's place; NaN agrees never."""
    same = outputs.argmax(axis=1) == reference.argmax(axis=1)
    finite = np.all(np.isfinite(outputs), axis=1)
    return float(np.mean(same & finite))


def max_rel(outputs: Array, reference: Array) -> float:
    """Largest absolute difference over the reference's largest magnitude.

    Scaled by the maximum and not element by element, which a reference near zero would blow up.
    """
    scale = float(np.max(np.abs(reference)))
    error = max_abs(outputs, reference)
    return error / scale if scale else (0.0 if error == 0 else np.inf)


def cosine(outputs: Array, reference: Array) -> float:
    """The smallest cosine similarity of any sample, in [-1, 1]; -1 for what is not finite.

    A sample of zeros has no direction: 1 if the outputs are zeros as well, else -1.
    """
    a = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    b = np.asarray(reference, np.float64).reshape(len(reference), -1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = np.sum(a * b, axis=1) / lengths
    no_direction = np.where(np.any(a, axis=1) | np.any(b, axis=1), -1.0, 1.0)
    similarity = np.where(np.isfinite(similarity), similarity, no_direction)
    return float(similarity.min())


def topk_agreement(outputs: Array, reference: Array, k: int) -> float | None:
    """Share of samples whose reference class is among the k largest outputs.

    ``None`` where there are not more than k classes, since it could not be missed.
    """
    if reference.shape[1] <= k:
        return None
    largest = np.argpartition(outputs, -k, axis=1)[:, -k:]
    hit = np.any(largest == reference.argmax(axis=1)[:, None], axis=1)
    return float(np.mean(hit & np.all(np.isfinite(outputs), axis=1)))


def near_ties(reference: Array, share: float = 0.05) -> Array:
    """Which samples the reference itself hardly decides: bool ``[N]``.

    The two largest outputs are nearer to each other than ``share`` of the sample's range, so
    that a flip there says little about the model.
    """
    ordered = np.sort(reference, axis=1)
    span = ordered[:, -1] - ordered[:, 0]
    return (ordered[:, -1] - ordered[:, -2]) < share * span


def flipped(outputs: Array, reference: Array) -> list[int]:
    """The samples whose largest output moved to another class."""
    return np.flatnonzero(outputs.argmax(axis=1) != reference.argmax(axis=1)).tolist()
