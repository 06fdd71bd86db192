"""Numeric distance between the outputs of two executions of one model (pure numpy).

All functions take ``outputs`` and ``reference``, float arrays of one shape ``[N, ...]`` with
a sample in each row.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def sqnr_db(outputs: Array, reference: Array) -> float:
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


def max_abs(outputs: Array, reference: Array) -> float:
    """Largest absolute difference; infinite where any output is not finite."""
    difference = np.abs(np.asarray(outputs, np.float64) - np.asarray(reference, np.float64))
    return float(difference.max()) if np.all(np.isfinite(difference)) else np.inf


def top1_agreement(outputs: Array, reference: Array) -> float:
    """Share of samples whose largest output is at the reference's place; NaN agrees never."""
    same = outputs.argmax(axis=1) == reference.argmax(axis=1)
    finite = np.all(np.isfinite(outputs), axis=1)
    return float(np.mean(same & finite))
