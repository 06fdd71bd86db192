"""Which candidates are tried, and in which order: what is likeliest to help comes first.

Layers in float aren't additive, nor monotonic: two that help alone may harm each other. So after
recipes and single layers it is combinations that are made and measured, from the best ones on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Protocol

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


class Attempts(Protocol):
    """Makes and judges candidates that don't depend on each other."""

    def __call__(self, wanted: Sequence[Candidate], over: Callable[[], bool]) -> Iterable[Trial]:
        """Their trials, in the order of the candidates.

        Once it is ``over`` only what is known from an earlier search, which takes no time.
        """
        ...


class Strategy:
    """Asks ``attempts`` for one round of trials after the other; ``trials`` are all it was told.

    Which candidates a round has depends on the rounds before it alone, so that the search is the
    same whether those of a round are made one after the other or side by side.
    """

    def __init__(
        self,
        attempts: Attempts,
        layers: Sequence[str],
        deadline: Deadline,
        progress: Progress,
    ) -> None:
        self._attempts, self._layers = attempts, layers
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
        recipes = [Candidate(recipe, (), first) for recipe in RECIPES]
        self._try(recipes, "recipes", self._deadline.part(RECIPES_END))
        recipe = self._best(lambda one: not one.floats).candidate
        singles = [replace(recipe, floats=(layer,)) for layer in self._layers]
        tried = len(self._try(singles, "layers", singles_end))
        rounds = self._combine(recipe)
        best = sorted(self.trials, key=NEARNESS, reverse=True)
        for other in others:
            plain = self._best(lambda one: not one.floats).candidate
            again = [plain, *(one.candidate for one in best[:AGAIN])]
            wanted = [replace(candidate, exact_pairs=other) for candidate in again]
            self._try(wanted, "CPUs without VNNI", None)
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
            wanted = dict.fromkeys(
                replace(start.candidate, floats=tuple(sorted((*start.candidate.floats, name))))
                for start in beam
                for name in names
                if name not in start.candidate.floats
            )
            grown = self._try(wanted, "combinations", self._deadline)
            if len(grown) < len(wanted):
                return False
            beam = sorted(grown, key=NEARNESS, reverse=True)[:BEAM]
        best = self._best(lambda one: bool(one.floats)) if singles else plain
        others = [replace(best.candidate, recipe=one) for one in RECIPES]
        return len(self._try(others, "other recipes", self._deadline)) == len(others)

    def _try(
        self, wanted: Iterable[Candidate], phase: str, deadline: Deadline | None
    ) -> list[Trial]:
        """The trials of those that can be made in time, of all of them without a deadline."""
        wanted = list(dict.fromkeys(wanted))
        new = [one for one in wanted if one not in self._tried]
        if not self._tried:  # without one there would be no best
            for trial in self._attempts(new[:1], lambda: False):
                self._note(trial, phase)
        for trial in self._attempts(
            [one for one in new if one not in self._tried],
            lambda: deadline is not None and deadline.over,
        ):
            self._note(trial, phase)
        return [self._tried[one] for one in wanted if one in self._tried]

    def _note(self, trial: Trial, phase: str) -> None:
        self._tried[trial.candidate] = trial
        total = self._deadline.end - self._deadline.start
        done = time.monotonic() - self._deadline.start
        best = max(one.nearness for one in self.trials)
        said = f"{phase}: {len(self._tried)} tried, the best {best:.1f} dB"
        self._progress.step(min(int(done), int(total) - 1), max(1, int(total)), said)

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
