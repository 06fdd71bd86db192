"""What a bundle turned out to be on a machine: its checks, each with a verdict, and one of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cells.row import Placed
from ..errors import ExitCode
from ..storage.document import Document
from ..verdicts import FAIL, INCONCLUSIVE, PASS

WAIVED, NOT_CHECKED = "waived", "not checked"
P99 = "p99"  # the check of it


@dataclass(frozen=True)
class Check:
    """One question and its answer: "pass", "fail", "inconclusive", "waived" or "not checked"."""

    name: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Verification(Placed, Document):
    """What a bundle turned out to be here. Times in ms, sizes in bytes.

    ``p50_ms`` is measured here, ``recorded_p50_ms`` on the build machine; neither is judged.
    ``p99_ms`` is judged where there is a limit, ``max_p99_ms``, and else not measured.
    ``seconds`` is how long it all took. What an int8 variant lost is taken apart as in
    ``CellVerdict``: ``file_sqnr_db`` by the file, ``kernels_sqnr_db`` by the runner here.
    """

    MADE_BY = "edgepipe verify"
    DERIVED = ("verdict",)

    bundle: Mapping[str, Any]
    target: str
    host: Mapping[str, Any]
    variant: str
    runner: str
    recommended: bool
    samples: int
    sqnr_db: float | None
    file_sqnr_db: float | None
    kernels_sqnr_db: float | None
    kernels_limit_db: float | None
    fault: str | None
    top1_agreement: float | None
    gate: Mapping[str, float | None]
    p50_ms: float | None
    recorded_p50_ms: float | None
    recorded_on: str | None
    p99_ms: float | None
    max_p99_ms: float | None
    load_ms: float
    seconds: float
    passed_over: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """Of all checks together: one that fails, fails it; one in doubt leaves it in doubt."""
        verdicts = {check.verdict for check in self.checks}
        return next((found for found in (FAIL, INCONCLUSIVE) if found in verdicts), PASS)

    @property
    def exit_code(self) -> ExitCode:
        """What a shell sees."""
        codes = {FAIL: ExitCode.GATE_FAILED, INCONCLUSIVE: ExitCode.INCONCLUSIVE}
        return codes.get(self.verdict, ExitCode.OK)
