"""Ratios of what took turns: the interval covers as often as it says, and no verdict is rash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgepipe.pipeline.numerics import ratios
from edgepipe.pipeline.numerics.ratios import Ratio

CYCLES = 10


def generation(
    generator: np.random.Generator, times: Sequence[float], luck: float
) -> list[np.ndarray]:
    """The slices of cells that take turns in a generation on a machine of bad manners.

    Its speed wanders by half, now and then a slice takes three times as long, and each process
    is faster or slower than its twins by ``luck`` (a standard deviation, relative).
    """
    machine = np.exp(np.cumsum(generator.normal(0, 0.05, CYCLES)) + generator.normal(0, 0.5))
    found = []
    for time in times:
        bumped = np.where(generator.random(CYCLES) < 0.1, 3.0, 1.0)
        noise = generator.normal(1, 0.03, CYCLES).clip(0.5)
        found.append(time * math.exp(generator.normal(0, luck)) * machine * bumped * noise)
    return found


@pytest.mark.parametrize("generations", [3, 5, 8, 16])
@pytest.mark.parametrize("luck", [0.0, 0.04])
def test_the_interval_covers_the_true_ratio_in_about_95_of_100_benches(
    generations: int, luck: float
) -> None:
    generator = np.random.default_rng(generations)
    benches, covered = 400, 0
    for _ in range(benches):
        logs = [
            ratios.of_cycles(*generation(generator, (1.0, 2.0), luck)) for _ in range(generations)
        ]
        found = ratios.over_generations(logs)
        covered += found.low <= 0.5 <= found.high
    # Two standard deviations of what chance allows around 95 %.
    assert 0.925 <= covered / benches <= 0.98


# Slices that were measured: `python benchmarks/trust.py record FILE`, int8-avx2 being a copy of
# int8, with one and two threads, without and with a neighbour who burns both cores.
RECORDED = sorted((Path(__file__).parent / "slices").glob("*.npz"))
BENCH = 8


def recorded(file: Path, runner: str, new: str) -> list[float]:
    """The log ratios of a variant and int8 in all generations."""
    with np.load(file) as slices:
        cells = [slices[f"{variant}/{runner}"] for variant in (new, "int8")]
        return [ratios.of_cycles(*cycles) for cycles in zip(*cells, strict=True)]


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_the_interval_covers_one_for_two_files_that_are_the_same(file: Path, runner: str) -> None:
    logs = recorded(file, runner, "int8-avx2")
    generator = np.random.default_rng(0)
    drawn = [generator.choice(logs, BENCH, replace=False) for _ in range(400)]
    benches = [ratios.over_generations(some.tolist()) for some in drawn]
    assert np.mean([found.low <= 1 <= found.high for found in benches]) >= 0.9


@pytest.mark.parametrize("runner", ["ort-cpu", "openvino"])
@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_int8_is_faster_than_fp32_in_every_bench_that_was_recorded(file: Path, runner: str) -> None:
    logs = recorded(file, runner, "fp32")
    for start in range(len(logs) - BENCH + 1):
        found = ratios.over_generations(logs[start : start + BENCH])
        assert ratios.verdict(found) == "faster"


def test_what_slows_both_down_cancels_out() -> None:
    machine = np.array([1.0, 2.0, 1.5, 1.2, 3.0])
    assert ratios.of_cycles(1.05 * machine, machine) == pytest.approx(math.log(1.05))


def test_one_slice_that_something_came_in_between_counts_for_nothing() -> None:
    old = np.ones(7)
    new = old * 1.1
    new[3] = 50.0
    assert math.exp(ratios.of_cycles(new, old)) == pytest.approx(1.1)


def test_no_interval_is_narrower_than_what_the_control_pair_shows() -> None:
    logs = [math.log(2.0)] * 8
    assert ratios.over_generations(logs).low == pytest.approx(2.0)
    control = [0.04, 0.06, 0.05, 0.05]  # 5 % apart, though it is the same cell twice
    least = ratios.half_width_of(control)
    assert least >= 0.05
    widened = ratios.over_generations(logs, least)
    assert widened.low <= 2.0 / 1.05
    assert widened.high >= 2.0 * 1.05
    assert ratios.half_width_of([0.3]) == 0  # a single generation shows nothing


def test_a_single_generation_has_no_interval_and_decides_nothing() -> None:
    found = ratios.over_generations([math.log(2.0)])
    assert (found.value, found.ci95) == (pytest.approx(2.0), None)
    assert ratios.verdict(found) == "undecided"


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (2.0, 1.8, 2.2, "faster"),
        (0.5, 0.4, 0.6, "slower"),
        (1.0, 0.96, 1.04, "same"),
        (1.03, 1.01, 1.05, "same"),  # beyond doubt, and nothing to choose by
        (1.04, 1.01, 1.07, "faster"),
        (1.1, 0.99, 1.2, "undecided"),
        (1.0, 0.9, 1.1, "undecided"),
    ],
)
def test_verdicts(value: float, low: float, high: float, verdict: str) -> None:
    assert ratios.verdict(Ratio(value, low, high, 8)) == verdict
    inverse = {"faster": "slower", "slower": "faster"}.get(verdict, verdict)
    if verdict != "same":
        assert ratios.verdict(Ratio(value, low, high, 8).inverse) == inverse


def test_what_was_measured_on_another_day_is_compared_with_care() -> None:
    generator = np.random.default_rng(4)
    new, old = (generator.normal(math.log(time), 0.01, 8) for time in (1.1, 1.0))
    close, careful = (ratios.compare(list(new), list(old), moves) for moves in (0.0, 0.05))
    assert close.low <= 1.1 <= close.high
    assert close.high / close.low < 1.05
    assert careful.low == pytest.approx(close.low * math.exp(-0.05))
    assert careful.high == pytest.approx(close.high * math.exp(0.05))
    assert ratios.compare([0.1] * 5, [0.0] * 5, 0.05).high == pytest.approx(math.exp(0.15))


def test_a_single_generation_has_an_inverse_without_an_interval_as_well() -> None:
    found = ratios.over_generations([math.log(2.0)]).inverse
    assert (found.value, found.ci95) == (pytest.approx(0.5), None)
    assert ratios.verdict(found) == "undecided"
