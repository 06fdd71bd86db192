"""What a search found: every trial, and the variants that are worth having."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...cells.cluster.spread import ClusterUse
from ...errors import ExitCode
from ...storage.document import UNWRITTEN, Result


@dataclass(frozen=True)
class Candidate:
    """One way to make int8: the ``recipe``'s steps, and the nodes that stay in float besides.

    ``exact_pairs`` is the one for CPUs whose int8 kernels saturate.
    """

    recipe: tuple[str, ...]
    floats: tuple[str, ...] = ()
    exact_pairs: bool = False


@dataclass(frozen=True)
class Trial:
    """How near a candidate comes to the float model on the images that are searched with.

    ``sqnr_db`` is ``None`` for equal answers, ``agreement`` how often both have the same first
    class, ``None`` for no classifier, and ``seconds`` what making and judging it took. One that
    can't be made has neither, and the ``reason``.
    """

    candidate: Candidate
    sqnr_db: float | None
    agreement: float | None
    seconds: float
    reason: str | None = None

    @property
    def nearness(self) -> float:
        """What candidates are ordered by, in dB: infinite for the float model's own answers."""
        if self.reason is not None:
            return -math.inf
        return math.inf if self.sqnr_db is None else self.sqnr_db


@dataclass(frozen=True)
class Speed:
    """The time of a variant on a runner, divided by that of the int8 that export made."""

    runner: str
    ratio: float | None
    ci95: tuple[float, float] | None = None
    verdict: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Found:
    """A variant of the front.

    ``layers`` are those in float by the names of their modules. ``sqnr_db`` and ``agreement`` are
    of the goldens, which the search never saw, ``searched_db`` of the images that it saw. ``drop``
    is what it loses of top-1 in points, with its interval, where labelled images were given.
    ``recommended`` are the runners that it is the one for, on the CPUs that it is for.
    """

    variant: str
    candidate: Candidate
    layers: tuple[str, ...]
    searched_db: float | None
    sqnr_db: float | None
    agreement: float | None
    speeds: tuple[Speed, ...] = ()
    drop: float | None = None
    drop_ci95: tuple[float, float] | None = None
    recommended: tuple[str, ...] = ()

    def speed(self, runner: str) -> Speed:
        """How fast it is on one of its ``speeds``' runners."""
        return next(one for one in self.speeds if one.runner == runner)


@dataclass(frozen=True)
class SearchResult(Result):
    """``key`` is the digest of what the trials depend on: those of the same key are used again.

    ``ended`` says what ended the search, ``images`` where those are from that it looked at,
    ``cluster`` how trials were spread if they were.
    """

    FILE = "search.json"
    MADE_BY = "edgepipe quantize --search"

    model: Mapping[str, Any]
    key: str
    budget: float
    seconds: float
    ended: str
    images: Mapping[str, Any]
    trials: tuple[Trial, ...]
    found: tuple[Found, ...]
    problems: tuple[str, ...] = ()
    cluster: ClusterUse | None = None
    exit_code: ExitCode = field(default=ExitCode.OK, metadata=UNWRITTEN)
