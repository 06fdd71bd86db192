"""Verdicts: what a judged cell comes to, and the exit code that verdicts make together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from .errors import ExitCode

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


class Outcome(Protocol):
    """What the result of a cell says in every command. ``status``: ok, unavailable, failed."""

    @property
    def runner(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def status(self) -> str: ...


class Judged(Outcome, Protocol):
    """The outcome of a cell under gates. ``verdict``: pass, fail, inconclusive, or none."""

    @property
    def verdict(self) -> str | None: ...


def exit_code(cells: Sequence[Judged], named: Collection[str]) -> ExitCode:
    """``code_of`` the cells' own verdicts; ``named`` are the runners asked for by name."""
    return code_of([cell.verdict for cell in cells], cells, named)


def code_of(
    verdicts: Collection[str | None], outcomes: Sequence[Outcome], named: Collection[str]
) -> ExitCode:
    """A failed gate before a failed or missing runner before a doubt."""
    if FAIL in verdicts:
        return ExitCode.GATE_FAILED
    if runner_failed(outcomes, named):
        return ExitCode.RUNNER
    return ExitCode.INCONCLUSIVE if INCONCLUSIVE in verdicts else ExitCode.OK


def runner_failed(outcomes: Sequence[Outcome], named: Collection[str]) -> bool:
    """Exit code 5: a cell failed, one that was asked for is unavailable, or all of them are."""
    missing = [outcome for outcome in outcomes if outcome.status == "unavailable"]
    return (
        any(outcome.status == "failed" for outcome in outcomes)
        or any(outcome.runner in named for outcome in missing)
        or len(missing) == len(outcomes)
    )
