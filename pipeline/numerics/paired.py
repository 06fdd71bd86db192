"""What right and wrong answers on the same images say about a variant: intervals and a verdict.

Two executions see the same images, so they are compared image by image. ``lost`` counts the
images that only the reference gets right, ``won`` those that only the other one does; the drop
is ``(lost - won) / images``, positive where accuracy was lost. Pure Python: the figures are
counts, and the formulas short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..verdicts import FAIL, INCONCLUSIVE, PASS
from .intervals import fewest

# Two-sided 95 %.
Z_95 = 1.959963984540054
BISECTIONS = 60  # halves [-1, 1] down to the last bit of a float


@dataclass(frozen=True)
class Drop:
    """A paired difference in percentage points, positive where accuracy was lost.

    ``ci95`` is Tango's interval, ``p_value`` McNemar's exact one (two-sided) for "no difference".
    """

    points: float
    ci95: tuple[float, float]
    p_value: float
    lost: int
    won: int


def places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of each image's true class among its scores: int ``[N]``, 0 for the best.

    ``scores`` are float ``[N, classes]``, ``labels`` int ``[N]``. Equal scores rank in the order
    of the classes, as ``argmax`` has it. Rows that are not finite come last: they are never right.
    """
    true = np.take_along_axis(scores, labels[:, None].astype(np.intp), axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    ahead = np.sum((scores > true) | ((scores == true) & earlier), axis=1)
    return np.where(np.all(np.isfinite(scores), axis=1), ahead, scores.shape[1])


def drop(reference: np.ndarray, other: np.ndarray) -> Drop:
    """The drop from ``reference`` to ``other``: bool ``[N]`` each, True for an image got right."""
    lost = int(np.count_nonzero(reference & ~other))
    won = int(np.count_nonzero(~reference & other))
    low, high = drop_interval(lost, won, len(reference))
    return Drop(
        points=100 * (lost - won) / len(reference),
        ci95=(100 * low, 100 * high),
        p_value=mcnemar(lost, won),
        lost=lost,
        won=won,
    )


def judge(found: Drop, images: int, max_drop: float) -> tuple[str, str, int | None]:
    """(verdict, reason, images needed) for "no more than ``max_drop`` points are lost".

    A pass and a fail are both claims, and the 95 % interval has to carry them: it lies below the
    limit, or above it. Otherwise inconclusive, with the number of images that would settle it if
    they went like these; ``None`` where that would be over a million.
    """
    low, high = found.ci95
    if high < max_drop:
        return PASS, "", None
    if low > max_drop:
        interval = f"95 % interval {low:.2f} to {high:.2f}"
        return (
            FAIL,
            f"top-1 lost {found.points:.2f} points ({interval}), {max_drop:g} allowed",
            None,
        )
    needed = images_needed(found.lost / images, found.won / images, max_drop / 100)
    more = f"about {needed:,} like these would tell" if needed else "no number of them would tell"
    reason = f"{images:,} images can't tell whether {max_drop:g} points are lost; {more}"
    return INCONCLUSIVE, reason, needed


def drop_interval(lost: float, won: float, images: float, z: float = Z_95) -> tuple[float, float]:
    """Score interval of the drop, in [-1, 1] (Tango 1998, Statistics in Medicine 17:891-908).

    All the drops that a score test doesn't reject. It keeps what it promises at the small
    discordant counts met here, none at all included, where Wald's interval has no width: with
    397 images and true rates of 1 % lost, 0.5 % won, its upper bound lies below the true drop in
    1.8 % of all samples (2.5 % are allowed; 1.1 % with Newcombe's paired interval of 1998, which is
    the wider one and depends on the images that both get right as well).
    """
    return _bound(lost, won, images, z), _bound(lost, won, images, -z)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of McNemar's test, whose null is that a discordant image is a coin.

    Twice the smaller binomial tail, 1 at most (Fagerland, Lydersen & Laake 2013, "The McNemar
    test for binary matched-pairs data", BMC Medical Research Methodology 13:91).
    """
    count, term, tail = lost + won, 1, 0
    for k in range(min(lost, won) + 1):
        tail += term
        term = term * (count - k) // (k + 1)
    return min(1.0, 2 * tail / 2**count)


def images_needed(lost_rate: float, won_rate: float, limit: float) -> int | None:
    """The smallest number of images whose interval leaves ``limit`` out at these rates."""
    above = lost_rate - won_rate > limit

    def settled(images: int) -> bool:
        low, high = drop_interval(lost_rate * images, won_rate * images, images)
        return low > limit if above else high < limit

    return fewest(settled)


def _bound(lost: float, won: float, images: float, z: float) -> float:
    """The drop at which the score statistic is ``z``; it falls as the drop grows."""
    low, high = -1.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _score(lost, won, images, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(lost: float, won: float, images: float, delta: float) -> float:
    """Tango's statistic for a true drop of ``delta``.

    With q the probability of "won" and q + delta that of "lost", the maximum likelihood under
    that constraint is the positive root of 2 n q^2 + a q - won delta (1 - delta) = 0, and
    lost - won has the variance n (2 q + delta - delta^2).
    """
    a = (2 * images - lost + won) * delta - (lost + won)
    root = math.sqrt(max(0.0, a * a + 8 * images * won * delta * (1 - delta)))
    variance = images * ((root - a) / (2 * images) + delta * (1 - delta))
    distance = lost - won - images * delta
    if variance <= 0:  # all images lost, all won, or none of either and no drop
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
