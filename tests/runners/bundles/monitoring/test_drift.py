"""Population stability: what is drift, what is chance, and what is too little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from edgepipe.runners.bundles.monitoring.drift import Drift, bins_of, chi_squared, drift

EVEN = (40,) * 10


def test_the_index_is_that_of_the_formula() -> None:
    found = drift((50, 50), (750, 250))
    assert found.psi == pytest.approx(0.25 * np.log(1.5) - 0.25 * np.log(0.5))
    assert (found.verdict, found.images, found.bins) == ("drifted", 1000, 2)


def test_quantiles_are_those_of_chi_squared() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in range(2, 20):
        assert chi_squared(freedom) == pytest.approx(stats.chi2.ppf(0.99, freedom), rel=0.01)


@pytest.mark.parametrize("images", [60, 200, 2000])
def test_images_of_the_same_kind_hardly_ever_count_as_drift(images: int) -> None:
    random = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        known = random.multinomial(400, [0.1] * 10)
        verdicts.append(drift(known.tolist(), random.multinomial(images, [0.1] * 10).tolist()))
    assert sum(one.verdict not in ("stable", "too few to tell") for one in verdicts) <= 6


def test_the_rule_of_thumb_alone_would_call_chance_drift() -> None:
    """Few images move the index far beyond 0.1 by chance: hence the critical value."""
    found = drift(EVEN, (12, 2, 9, 3, 8, 4, 7, 5, 6, 4))
    assert found.psi is not None
    assert found.critical is not None
    assert 0.1 < found.psi < found.critical
    assert found.verdict == "stable"


def test_a_camera_that_sees_one_thing_only_has_drifted() -> None:
    assert drift(EVEN, (1000,) + (0,) * 9).verdict == "drifted"
    assert drift(EVEN, (160, *(93,) * 8, 96)).verdict == "stable"
    assert drift(EVEN, (280, *(80,) * 9)).verdict == "shifted"


def test_too_few_images_are_said_to_be_with_how_many_would_do() -> None:
    found = drift(EVEN, (3,) * 10)
    assert found == Drift("too few to tell", None, None, 30, 50, 10)
    assert drift(EVEN, (5,) * 10).verdict == "stable"
    assert drift((400, 0, 0), (9, 9, 9)).needed == 0  # nothing can be told by one class


def test_many_classes_are_grouped_by_the_calibration_alone() -> None:
    rare = [1] * 500 + [0] * 500
    bins = bins_of(rare)
    assert len(bins) == 20
    assert [place for part in bins for place in range(1000)[part]] == list(range(1000))
    assert min(sum(rare[part]) for part in bins) >= 25
