"""Candidates made and judged, in a worker; what an earlier search tried isn't tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....runners.base import RunnerError
from ...errors import StageError
from ...stages.native import Native
from ...stages.quantize import CALIBRATION, Calibrate
from ...storage.goldens import FILE
from .search_result import Candidate, Trial


@dataclass
class Trials:
    """Makes candidates of ``model``, which the quantizer prepared, in the workspace ``folder``.

    They are judged on ``seen``. ``known`` are the trials there are, of this search and of those
    before it; ``note`` is told all of them after each new one.
    """

    folder: Path
    model: Path
    calibrate: Calibrate
    seen: Sequence[Mapping[str, np.ndarray]]
    note: Callable[[Iterable[Trial]], object]
    known: dict[Candidate, Trial] = field(default_factory=dict)
    _handed_over: bool = False

    def attempt(self, candidate: Candidate) -> Trial:
        """Its trial, also of one that can't be made; see ``Trial``."""
        if candidate not in self.known:
            began = time.monotonic()
            sqnr_db, agreement, reason = None, None, None
            try:
                made = self._made(candidate)
                sqnr_db, agreement = made["gained"][-1][1], made["agreement"]
            except (StageError, RunnerError) as error:
                reason, self._handed_over = str(error), False
            seconds = time.monotonic() - began
            self.known[candidate] = Trial(candidate, sqnr_db, agreement, seconds, reason)
            self.note(self.known.values())
        return self.known[candidate]

    def attempts(self, wanted: Sequence[Candidate], over: Callable[[], bool]) -> Iterator[Trial]:
        """See ``strategy.Attempts``: one after the other."""
        for candidate in wanted:
            if candidate in self.known or not over():
                yield self.attempt(candidate)

    def layers(self) -> list[str]:
        """The nodes with weights that plain int8 quantizes."""
        return self._made(Candidate(("min-max",)))["layers"]

    def confirm(self, candidates: Mapping[Candidate, Path]) -> dict[Candidate, dict[str, Any]]:
        """Candidates as files, judged on the goldens; see ``Quantization.quantize``."""
        self._handed_over = False
        self.calibrate.hand_over(self.calibrate.goldens(self.folder / FILE))
        return {one: self._quantize(one, path) for one, path in candidates.items()}

    def _made(self, candidate: Candidate) -> dict[str, Any]:
        if not self._handed_over:
            self.calibrate.hand_over(self.seen)
            self._handed_over = True
        return self._quantize(candidate, self.model.with_name("trial.onnx"))

    def _quantize(self, candidate: Candidate, output: Path) -> dict[str, Any]:
        calibration = self.folder / CALIBRATION
        return quantized(self.calibrate.native, self.model, output, calibration, candidate)


def quantized(
    native: Native, model: Path, output: Path, calibration: Path, candidate: Candidate
) -> dict[str, Any]:
    """A candidate as a file, judged on what was handed over; see ``Quantization.quantize``."""
    return dict(
        native.ask(
            "quantize",
            model=model,
            output=output,
            calibration=calibration,
            recipe=list(candidate.recipe),
            floats=list(candidate.floats),
            exact_pairs=candidate.exact_pairs,
            each=False,
        )
    )
