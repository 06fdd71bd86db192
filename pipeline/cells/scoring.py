"""Where the true classes of images come among a cell's scores: what an accuracy is counted from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...runners.bundles.scores import scores_in
from ...runners.images import batches
from ...runners.workers.answers import Loaded
from ..numerics import paired
from .session import OpenCell, run_batches

CHUNK = 32
# Images in one run of a model that leaves the batch open.
DYNAMIC_BATCH = 16


def scored_batch(loaded: Loaded) -> int:
    """Images in one run of a session that is scored."""
    return loaded.inputs[0].shape[0] or DYNAMIC_BATCH


def chunk_of(sessions: Sequence[Loaded]) -> int:
    """Images that are decoded at a time: a multiple of every session's batch, so that the runs
    are the same whichever sessions go through the images together.
    """
    common = math.lcm(*map(scored_batch, sessions))
    return common * math.ceil(CHUNK / common)


def score(opened: OpenCell, tensor: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Run float32 ``[n, C, H, W]``; returns the place of each true class, int32 ``[n]``.

    0 is the first place, ``classes`` means that the outputs can't be ordered. Raises
    ``RunnerError`` if the session fails, or gives no scores of so many classes.
    """
    name, output = opened.loaded.inputs[0].name, opened.loaded.outputs[0].name
    cut = batches(tensor, scored_batch(opened.loaded))
    given = run_batches(opened, (({name: part}, rows, valid) for part, rows, valid in cut))
    scores = scores_in(given, output, len(labels), classes)
    return paired.places(scores, labels).astype(np.int32)
