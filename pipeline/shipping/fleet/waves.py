"""Waves: how many boxes are to have a release after each, and whether the next one may begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...settings.shipping import reaches, share


def split(boxes: Sequence[str], waves: str) -> tuple[tuple[str, ...], ...]:
    """The boxes of each wave, in their order. ``waves`` is as in ``[rollout]``: "1,10%,100%".

    Numbers and percentages count from the first box on; a percentage is rounded up, a number over
    that of the boxes means all. A wave that would add no box is left out. Raises ``ValueError``.
    """
    found, begun = [], 0
    for part in reaches(waves):
        count = len(boxes) * share(part) if part.endswith("%") else int(part)
        # 7 % of 100 is 7.000000000000001 to a float.
        reached = min(len(boxes), math.ceil(round(count, 9)))
        if reached > begun:
            found.append(tuple(boxes[begun:reached]))
            begun = reached
    return tuple(found)


@dataclass(frozen=True)
class Tally:
    """The boxes of a wave: those that hold, those that don't, and those that were away.

    ``unlimited`` of them were not held to any p99, since no limit is certified.
    """

    good: int
    bad: int
    away: int
    unlimited: int = 0

    @property
    def share(self) -> float | None:
        """Of the boxes that were tried, those that hold; ``None`` if all were away."""
        tried = self.good + self.bad
        return self.good / tried if tried else None

    def too_few(self, threshold: str) -> str | None:
        """Why too few hold, ``None`` if enough do."""
        if self.share is None or self.share >= share(threshold):
            return None
        held = f"{self.good} of {self.good + self.bad} boxes hold"
        return f"{held}, {threshold} needed"

    def too_many_away(self, most: str) -> str | None:
        """Why too many are away, ``None`` if they may be: all of them may never."""
        count = self.good + self.bad + self.away
        if not self.away or (self.share is not None and self.away / count <= share(most)):
            return None
        return f"{self.away} of {count} boxes are away, at most {most} may be"
