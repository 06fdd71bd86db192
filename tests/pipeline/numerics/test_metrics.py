"""Metrics against hand-made arrays with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from edgepipe.pipeline.numerics import metrics

REFERENCE = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]], np.float32)


def test_sqnr_of_a_tenth_of_noise_is_20_db() -> None:
    assert metrics.sqnr_db(REFERENCE * 1.1, REFERENCE) == pytest.approx(20, abs=1e-4)


def test_equal_outputs_have_infinite_sqnr_and_no_error() -> None:
    assert metrics.sqnr_db(REFERENCE, REFERENCE) == np.inf
    assert metrics.max_abs(REFERENCE, REFERENCE) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("both", [False, True])
def test_what_is_not_finite_never_passes(value: float, both: bool) -> None:
    broken = REFERENCE.copy()
    broken[1, 0] = value
    reference = broken if both else REFERENCE
    with np.errstate(invalid="ignore"):
        assert metrics.sqnr_db(broken, reference) == -np.inf
        assert metrics.max_abs(broken, reference) == np.inf
        assert metrics.top1_agreement(broken, reference) <= 0.5


def test_a_silent_reference_has_no_sqnr() -> None:
    assert metrics.sqnr_db(REFERENCE, np.zeros_like(REFERENCE)) == -np.inf


def test_top1_agreement_counts_samples() -> None:
    assert metrics.top1_agreement(REFERENCE[:, ::-1], REFERENCE) == 0
    assert metrics.top1_agreement(np.add(REFERENCE, [[0, 0, 0], [0, 9, 0]]), REFERENCE) == 0.5


def test_max_abs_is_the_largest_difference() -> None:
    assert metrics.max_abs(np.add(REFERENCE, [[0, 0, 0], [0, -0.25, 0]]), REFERENCE) == 0.25


def test_samples_of_zeros_are_alike() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert metrics.cosine(zeros, zeros) == 1
    assert metrics.cosine(zeros, ones) == metrics.cosine(ones, zeros) == -1
    assert metrics.cosine(zeros * np.nan, zeros) == -1
