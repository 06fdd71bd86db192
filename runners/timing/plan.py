"""What to measure and for how long, and what a scenario puts on a session."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SINGLE_STREAM, OFFLINE, SERVER, COLD = "single-stream", "offline", "server", "cold"

KEPT_OUTPUTS = 256
KEPT_OUTPUT_BYTES = 64 << 20


@dataclass(frozen=True)
class Plan:
    """How long a slice is: at least ``seconds`` and ``min_samples``, but at most ``max_seconds``.

    Warming up ends when two successive windows (each at least 8 runs and ``window_seconds``)
    are within 2 % of each other, or after ``warm_up_seconds``. ``rate`` is how many runs
    arrive in a second in the server scenario, at times drawn with ``seed``.
    """

    seconds: float
    min_samples: int
    max_seconds: float
    window_seconds: float
    warm_up_seconds: float
    scenario: str = SINGLE_STREAM
    rate: float = 0.0
    seed: int = 0


class Load(Protocol):
    """What a scenario puts on a session."""

    def warm_up(self, seconds: float, runs: int, limit_ns: int) -> tuple[int, float]:
        """Load the session for ``seconds`` and at least ``runs`` runs, but not after ``limit_ns``.

        Returns how many runs were made, and ns for each.
        """
        ...

    def timed(self, plan: Plan, kept: Kept) -> array[int]:
        """The samples (int64), with some of the outputs put aside."""
        ...

    def afterwards(self, kept: Kept) -> None:
        """Put outputs of the session as it is now aside: what goes wrong mostly stays wrong."""
        ...

    def close(self) -> None:
        """Free what the load has beside the session."""
        ...


class Kept:
    """Some outputs of the timed runs, evenly spread: they are judged only after the clock."""

    def __init__(self, output_bytes: int) -> None:
        self._most = max(2, min(KEPT_OUTPUTS, KEPT_OUTPUT_BYTES // max(1, output_bytes)))
        self._stride = 1
        self._seen = 0
        self.outputs: list[Mapping[str, np.ndarray]] = []

    def offer(self, outputs: Mapping[str, np.ndarray], *, copy: bool = False) -> None:
        """Keep these outputs if it is their turn; ``copy`` them if they won't last."""
        self._seen += 1
        if self._seen % self._stride == 0:
            self.outputs.append(
                {name: array.copy() for name, array in outputs.items()} if copy else outputs
            )
            if len(self.outputs) >= self._most:
                del self.outputs[::2]
                self._stride *= 2
