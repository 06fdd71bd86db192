"""Accuracy's statistics: against published values, and against what an interval promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, multinomial

from edgepipe.pipeline.numerics.paired import (
    drop,
    drop_interval,
    images_needed,
    judge,
    mcnemar,
    places,
)
from edgepipe.pipeline.verdicts import FAIL, INCONCLUSIVE, PASS


def test_the_place_of_the_true_class() -> None:
    scores = np.array([[1, 9, 5], [1, 9, 5], [1, 9, 5], [2, 2, 2], [2, 2, 2]], np.float32)
    assert places(scores, np.array([1, 2, 0, 0, 2])).tolist() == [0, 1, 2, 0, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_never_right(bad: float) -> None:
    scores = np.array([[bad, 0], [0, bad]], np.float32)
    for label in (0, 1):
        assert places(scores, np.array([label, label])).tolist() == [2, 2]


def test_a_drop_counts_the_images_that_changed_sides() -> None:
    reference = np.array([True] * 8 + [False] * 2)
    other = np.array([True] * 5 + [False] * 3 + [True] + [False])
    found = drop(reference, other)
    assert (found.lost, found.won) == (3, 1)
    assert found.points == pytest.approx(20)
    assert found.ci95[0] < 20 < found.ci95[1]


@pytest.mark.parametrize(
    ("lost", "won", "images", "z", "low", "high"),
    [
        # R, PropCIs::scoreci.mp(25, 28, 618, conf.level = 0.90), which takes won minus lost.
        (28, 25, 618, 1.6448536, -0.0148, 0.0247),
        # Fagerland, Lydersen & Laake, "Statistical Analysis of Contingency Tables", chapter 8.
        (7, 1, 21, 1.9599640, 0.026, 0.517),
    ],
)
def test_the_interval_against_published_values(
    lost: int, won: int, images: int, z: float, low: float, high: float
) -> None:
    assert drop_interval(lost, won, images, z) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("images", [1, 20, 397, 50_000])
def test_the_interval_has_a_width_where_no_image_changed_sides(images: int) -> None:
    half = 1.9599640**2 / (images + 1.9599640**2)  # the score equation, solved by hand
    assert drop_interval(0, 0, images) == pytest.approx((-half, half), rel=1e-6)


@pytest.mark.parametrize(("lost", "won"), [(0, 5), (5, 0), (3, 1), (21, 0), (10, 11)])
def test_the_interval_is_mirrored_and_holds_the_drop(lost: int, won: int) -> None:
    low, high = drop_interval(lost, won, 21)
    assert -1 <= low <= (lost - won) / 21 <= high <= 1
    assert drop_interval(won, lost, 21) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(
    ("images", "lost", "won"), [(397, 0.01, 0.005), (397, 0.02, 0.015), (2000, 0.01, 0.005)]
)
def test_an_upper_bound_below_the_true_drop_is_as_rare_as_promised(
    images: int, lost: float, won: float
) -> None:
    """All outcomes weighed by their probability: how often would a pass be wrong?"""
    wrong = 0.0
    rates = [lost, won, 1 - lost - won]
    for a in range(int(binom.isf(1e-7, images, lost)) + 1):
        for b in range(int(binom.isf(1e-7, images, won)) + 1):
            if drop_interval(a, b, images)[1] < lost - won:
                wrong += multinomial.pmf([a, b, images - a - b], images, rates)
    assert 0.01 < wrong < 0.026


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (400, 350)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


def answers(lost: int, won: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    reference = np.arange(images) >= won
    return reference, np.where(np.arange(images) < won + lost, ~reference, reference)


@pytest.mark.parametrize(
    ("lost", "won", "images", "verdict"),
    [
        (0, 0, 800, PASS),
        (0, 0, 397, INCONCLUSIVE),
        (8, 8, 10_000, PASS),
        (3, 0, 397, INCONCLUSIVE),
        (12, 0, 397, FAIL),
        (0, 12, 397, PASS),
    ],
)
def test_a_verdict_is_what_the_interval_can_carry(
    lost: int, won: int, images: int, verdict: str
) -> None:
    found = drop(*answers(lost, won, images))
    assert (found.lost, found.won) == (lost, won)
    given, reason, needed = judge(found, images, 0.5)
    assert given == verdict
    assert bool(reason) == (verdict != PASS)
    assert verdict == INCONCLUSIVE or needed is None


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 0), (4, 5)])
def test_the_number_of_images_asked_for_is_the_one_that_settles_it(lost: int, won: int) -> None:
    needed = images_needed(lost / 397, won / 397, 0.005)
    assert needed

    def settled(images: int) -> bool:
        low, high = drop_interval(lost / 397 * images, won / 397 * images, images)
        return not low <= 0.005 <= high

    assert settled(needed)
    assert not settled(needed - 1)


def test_no_number_of_images_settles_a_drop_that_equals_the_limit() -> None:
    assert images_needed(0.01, 0.005, 0.005) is None
