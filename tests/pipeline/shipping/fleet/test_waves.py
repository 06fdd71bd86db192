"""Waves and gates: who is in which wave, and when the next one may begin."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgepipe.pipeline.settings.shipping import RolloutConfig
from edgepipe.pipeline.shipping.fleet.waves import Tally, split

TWENTY = [f"box-{number:02}" for number in range(20)]


@pytest.mark.parametrize(
    ("waves", "count", "sizes"),
    [
        ("1,10%,50%,100%", 20, [1, 1, 8, 10]),
        ("1,10%,50%,100%", 3, [1, 1, 1]),
        ("1,10%,50%,100%", 1, [1]),
        ("2, 5, 50%", 20, [2, 3, 5]),
        ("7%", 100, [7]),
        ("1%", 20, [1]),
        ("30,100%", 20, [20]),
        ("5,10%,100%", 20, [5, 15]),
        ("100%", 20, [20]),
    ],
)
def test_waves_count_from_the_first_box_on(waves: str, count: int, sizes: list[int]) -> None:
    names = [f"box-{number}" for number in range(count)]
    found = split(names, waves)
    assert [len(wave) for wave in found] == sizes
    assert [name for wave in found for name in wave] == names[: sum(sizes)]


@pytest.mark.parametrize(
    "waves", ["", "0", "10", "x", "0%", "101%", "50%,10%", "2,1", "1,1", "1,,2", "-1", "1.5", "²"]
)
def test_waves_that_make_no_sense_are_refused(waves: str) -> None:
    if waves == "10":
        assert len(split(TWENTY, waves)[0]) == 10
        return
    with pytest.raises(ValidationError):
        RolloutConfig(waves=waves)


@pytest.mark.parametrize(
    ("good", "bad", "threshold", "passes"),
    [(19, 1, "95%", True), (18, 1, "95%", False), (1, 0, "100%", True), (0, 1, "0%", True)],
)
def test_a_share_at_the_threshold_passes(good: int, bad: int, threshold: str, passes: bool) -> None:
    found = Tally(good, bad, away=0).too_few(threshold)
    assert (found is None) is passes
    assert found is None or found == f"{good} of {good + bad} boxes hold, {threshold} needed"


def test_boxes_that_are_away_are_neither_good_nor_bad() -> None:
    tally = Tally(good=9, bad=0, away=1)
    assert tally.share == 1
    assert tally.too_few("100%") is None
    assert tally.too_many_away("10%") is None
    assert tally.too_many_away("9%") == "1 of 10 boxes are away, at most 9% may be"
    assert Tally(0, 0, 3).too_many_away("100%") == "3 of 3 boxes are away, at most 100% may be"
