"""Which candidates are tried, and in which order: what is likeliest to help comes first.

Layers in float aren't additive, nor monotonic: two that help alone may harm each other. So after
recipes and single layers it is combinations that are made and measured, from the best ones on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from ...progress import Progress
from .search_result import Candidate, Trial

# Recipes that are tried, the default one first.
RECIPES = (
    ("least-squares", "rounding", "bias-correction"),
    ("percentile", "rounding", "bias-correction"),
    ("min-max", "rounding", "bias-correction"),
    ("least-squares", "rounding-all", "bias-correction"),
    ("percentile", "rounding-all", "bias-correction"),
    ("equalization", "least-squares", "rounding", "bias-correction"),
)
# Of the time for trials, what recipes may take, and recipes and single layers together.
RECIPES_END, SINGLES_END = 0.25, 0.65
# Sets that are carried on, layers that are tried beside each, and layers in float at most.
BEAM, BESIDE, MOST_FLOATS = 2, 6, 6
# What keeps more layers in float has to be so much nearer, in dB.
WORTH_DB = 0.1
NEARNESS = attrgetter("nearness")
# Sets that are made again for CPUs whose kernels saturate.
AGAIN = 4


@dataclass(frozen=True)
class Deadline:
    """``start`` and ``end`` by the monotonic clock."""

    start: float
    end: float

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    def part(self, share: float) -> Deadline:
        """The first part of it."""
        return replace(self, end=self.start + share * (self.end - self.start))


class Strategy:
    """Asks ``attempt`` for one trial after the other; ``trials`` are all that it was told.

    What is ``known`` from an earlier search takes no time.
    """

    def __init__(
        self,
        attempt: Callable[[Candidate], Trial],
        layers: Sequence[str],
        deadline: Deadline,
        progress: Progress,
        known: Container[Candidate] = (),
    ) -> None:
        self._attempt, self._layers, self._known = attempt, layers, known
        self._deadline, self._progress = deadline, progress
        self._tried: dict[Candidate, Trial] = {}
        self.ended = ""

    @property
    def trials(self) -> list[Trial]:
        """In the order they were made in."""
        return list(self._tried.values())

    def run(self, exact_pairs: Sequence[bool]) -> None:
        """Search with 8-bit weights, and make the best again for the other CPU class."""
        first, *others = exact_pairs
        singles_end = self._deadline.part(SINGLES_END)
        for recipe in RECIPES:
            self._try(Candidate(recipe, (), first), "recipes", self._deadline.part(RECIPES_END))
        recipe = self._best(lambda one: not one.floats).candidate
        tried = sum(
            self._try(replace(recipe, floats=(layer,)), "layers", singles_end) is not None
            for layer in self._layers
        )
        rounds = self._combine(recipe)
        best = sorted(self.trials, key=NEARNESS, reverse=True)
        for other in others:
            plain = self._best(lambda one: not one.floats).candidate
            for candidate in dict.fromkeys([plain, *(one.candidate for one in best[:AGAIN])]):
                self._try(replace(candidate, exact_pairs=other), "CPUs without VNNI", None)
        if tried < len(self._layers):
            self.ended = f"the budget: {tried} of {len(self._layers)} layers were tried alone"
        elif not rounds:
            self.ended = "the budget, while layers were combined"
        else:
            self.ended = "nothing nearer was found"

    def _combine(self, recipe: Candidate) -> bool:
        """Grow sets of float layers, also past one that helps less; whether that came to its end.

        Then the best set is tried with the other recipes.
        """
        plain = self._tried[recipe]
        singles = sorted(
            (one for one in self.trials if len(one.candidate.floats) == 1),
            key=NEARNESS,
            reverse=True,
        )
        helpful = [one for one in singles if one.nearness > plain.nearness] or singles
        names = [one.candidate.floats[0] for one in helpful[:BESIDE]]
        beam = helpful[:BEAM]
        while beam and len(beam[0].candidate.floats) < min(MOST_FLOATS, len(names)):
            grown: dict[Candidate, Trial] = {}
            for start in beam:
                for name in (one for one in names if one not in start.candidate.floats):
                    floats = tuple(sorted((*start.candidate.floats, name)))
                    wanted = replace(start.candidate, floats=floats)
                    if not (found := self._try(wanted, "combinations", self._deadline)):
                        return False
                    grown[wanted] = found
            beam = sorted(grown.values(), key=NEARNESS, reverse=True)[:BEAM]
        best = self._best(lambda one: bool(one.floats)) if singles else plain
        others = [replace(best.candidate, recipe=one) for one in RECIPES]
        return all(self._try(one, "other recipes", self._deadline) for one in others)

    def _try(self, candidate: Candidate, phase: str, deadline: Deadline | None) -> Trial | None:
        """Its trial; ``None`` once the time is up. Without a deadline it is made in any case."""
        if candidate in self._tried:
            return self._tried[candidate]
        if deadline and deadline.over and self._tried and candidate not in self._known:
            return None
        trial = self._attempt(candidate)
        self._tried[candidate] = trial
        total = self._deadline.end - self._deadline.start
        done = time.monotonic() - self._deadline.start
        best = max(one.nearness for one in self.trials)
        said = f"{phase}: {len(self._tried)} tried, the best {best:.1f} dB"
        self._progress.step(min(int(done), int(total) - 1), max(1, int(total)), said)
        return trial

    def _best(self, fits: Callable[[Candidate], bool]) -> Trial:
        return max((one for one in self.trials if fits(one.candidate)), key=NEARNESS)


def front(trials: Sequence[Trial], exact_pairs: bool) -> list[Trial]:
    """The best for each number of layers in float, if it is nearer than all with fewer."""
    found: list[Trial] = []
    some = [one for one in trials if one.candidate.exact_pairs == exact_pairs]
    for trial in sorted(some, key=lambda one: (len(one.candidate.floats), -one.nearness)):
        if not found or trial.nearness >= found[-1].nearness + WORTH_DB:
            found.append(trial)
    return found
