"""The order in which a search tries candidates, where it ends, and what it keeps of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from edgepipe.pipeline.progress import SILENT
from edgepipe.pipeline.quantization.search.search_result import Candidate, Trial
from edgepipe.pipeline.quantization.search.strategy import RECIPES, Deadline, Strategy, front

LAYERS = ("a", "b", "c", "d")


def strategy(nearness: Callable[[Candidate], float], seconds: float = 60.0) -> Strategy:
    now = time.monotonic()

    def attempts(wanted: Sequence[Candidate], over: Callable[[], bool]) -> Iterator[Trial]:
        for candidate in wanted:
            if not over():
                yield Trial(candidate, nearness(candidate), None, 0.0)

    return Strategy(attempts, LAYERS, Deadline(now, now + seconds), SILENT)


def test_layers_that_harm_each_other_are_not_combined() -> None:
    """Alone "a" and "b" help most, together they are worse than nothing; "a" with "d" is best."""
    gains = {(): 0.0, ("a",): 3.0, ("b",): 2.5, ("c",): -1.0, ("d",): 0.5, ("a", "d"): 4.0}

    def nearness(one: Candidate) -> float:
        return 20.0 + gains.get(one.floats, -2.0)

    search = strategy(nearness)
    search.run([False])
    best = front(search.trials, exact_pairs=False)
    assert [one.candidate.floats for one in best] == [(), ("a",), ("a", "d")]
    assert search.ended == "nothing nearer was found"


def test_the_best_recipe_is_the_one_that_layers_are_tried_with() -> None:
    good = RECIPES[2]
    search = strategy(lambda one: 20.0 + (one.recipe == good) + 0.2 * len(one.floats))
    search.run([False])
    tried = [one.candidate for one in search.trials if len(one.candidate.floats) in (1, 2)]
    assert {one.recipe for one in tried} == {good}
    # In the end the best set is tried with all of them.
    whole = {one.candidate.recipe for one in search.trials if one.candidate.floats == LAYERS}
    assert whole == set(RECIPES)


def test_the_best_are_made_again_for_cpus_that_saturate() -> None:
    search = strategy(lambda one: 20.0 + ("a" in one.floats) - one.exact_pairs)
    search.run([False, True])
    again = [one.candidate for one in search.trials if one.candidate.exact_pairs]
    assert any(one.floats == ("a",) for one in again)
    assert any(one.floats == () for one in again)
    assert len(again) < 6


def test_no_time_still_gives_one_candidate_and_says_what_ended_it() -> None:
    search = strategy(lambda one: 20.0, seconds=-1.0)
    search.run([False])
    assert len(search.trials) == 1
    assert search.ended == "the budget: 0 of 4 layers were tried alone"


def test_a_candidate_is_never_made_twice() -> None:
    made: list[Candidate] = []

    def nearness(one: Candidate) -> float:
        made.append(one)
        return 20.0 + len(one.floats)

    strategy(nearness).run([False, True])
    assert len(made) == len(set(made))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_front_has_only_what_is_nearer_than_all_that_keep_fewer_layers(
    order: tuple[int, ...],
) -> None:
    rows = [
        Trial(Candidate(("min-max",), floats), sqnr_db, None, 0.0)
        for floats, sqnr_db in (((), 20.0), (("a",), 19.0), (("a", "b"), 21.0))
    ]
    found = front([rows[place] for place in order], exact_pairs=False)
    assert [one.candidate.floats for one in found] == [(), ("a", "b")]
