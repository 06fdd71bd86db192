"""What a classifier's scores are, what they say of an image, and how near they are to others.

One computation for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..base import SessionError

LOGITS, PROBABILITIES = "logits", "probabilities"
# float32 rounding of a softmax over many classes.
SUM_TOLERANCE = 1e-3


def kind_of(outputs: np.ndarray) -> str:
    """ "probabilities" if every row of ``[N, classes]`` adds up to one and is in [0, 1].

    To be asked of many images, once: a batch of a few may add up by chance.
    """
    if outputs.ndim != 2 or outputs.dtype.kind != "f" or not np.all(np.isfinite(outputs)):
        return LOGITS
    exact = outputs.astype(np.float64)
    sums = np.allclose(exact.sum(axis=1), 1, atol=SUM_TOLERANCE)
    return PROBABILITIES if exact.size and exact.min() >= 0 and sums else LOGITS


def kind_in(model: Mapping[str, Any], output: str) -> str:
    """What the manifest's section about a model says of an output."""
    for about in model.get("outputs", ()):
        if about["name"] == output:
            return str(about.get("scores", LOGITS))
    return LOGITS


def probabilities(scores: np.ndarray, kind: str) -> np.ndarray:
    """Float64 ``[N, classes]``: of logits their softmax, probabilities as they are."""
    exact = np.asarray(scores, np.float64)
    if kind == PROBABILITIES:
        return exact
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def scores_in(
    outputs: Mapping[str, np.ndarray], name: str, images: int, classes: int
) -> np.ndarray:
    """The output of that name, if it is float ``[images, classes]``.

    Raises ``SessionError`` for any other, and where there is none.
    """
    if name not in outputs:
        raise SessionError(f"no output {name}: there are {', '.join(outputs) or 'none'}")
    scores = outputs[name]
    if scores.shape != (images, classes) or scores.dtype.kind != "f":
        shape = f"{scores.dtype} {list(scores.shape)}"
        raise SessionError(f"output {name} is {shape}, no scores of {classes} classes")
    return scores


def sqnr_db(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB, over all samples together.

    ``10 log10(sum(reference^2) / sum((outputs - reference)^2))`` (Widrow & Kollar,
    "Quantization Noise", 2008). Infinite for equal arrays; minus infinity where any output is
    not finite, since no amount of signal makes up for a NaN.
    """
    signal = np.asarray(reference, np.float64)
    noise = np.asarray(outputs, np.float64) - signal
    if not np.all(np.isfinite(noise)):
        return -np.inf
    noise_power = float(np.sum(noise**2))
    signal_power = float(np.sum(signal**2))
    if noise_power == 0:
        return np.inf
    return 10 * float(np.log10(signal_power / noise_power)) if signal_power else -np.inf
