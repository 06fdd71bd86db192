"""Is it slower than it was? A cell against the same one of an earlier bench, or of another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runners import documents
from ..errors import InputError
from ..numerics import intervals
from ..verdicts import FAIL, INCONCLUSIVE, PASS
from .validity import VALID

# What makes two rows the same cell.
KEY = ("variant", "runner", "target", "precision", "device", "scenario", "batch")
SAME = ("threads", "streams", "options", "rate")


@dataclass(frozen=True)
class Comparison:
    """New time for a run divided by the old one, with its 95 % interval.

    The verdict is "fail" if all of the interval is above ``1 + max_slowdown``, "pass" if none
    of it is, "inconclusive" otherwise or with a ``reason`` why the two can't be compared.
    """

    verdict: str
    max_slowdown: float
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    baseline_ms: float | None = None
    reason: str | None = None


def compare(
    new: Sequence[float], old: Sequence[float], max_slowdown: float, *, paired: bool
) -> Comparison:
    """Judge the figures (ms for a run) of rounds against those of another measurement.

    ``paired``: both were measured in the same rounds, one right after the other.
    """
    if min(len(new), len(old)) < intervals.MIN_ROUNDS:
        reason = f"too few rounds: {len(new)} against {len(old)}, {intervals.MIN_ROUNDS} needed"
        return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)
    mean_old = sum(old) / len(old)
    ratio = intervals.paired_ratio(new, old) if paired else sum(new) / len(new) / mean_old
    low, high = intervals.ratio_interval(new, old, paired=paired)
    limit = 1 + max_slowdown
    verdict = FAIL if low > limit else PASS if high <= limit else INCONCLUSIVE
    return Comparison(verdict, max_slowdown, ratio, (low, high), mean_old)


class Baseline:
    """The cells of a ``bench.json``."""

    def __init__(self, document: Mapping[str, Any], path: Path) -> None:
        self._hosts = document["hosts"]
        self.path = path
        self._cells = {
            tuple(cell[key] for key in KEY): cell
            for cell in document["cells"]
            if cell["status"] == "ok"
        }

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a ``bench.json``. Raises ``InputError`` if it isn't one."""
        try:
            document = documents.parse(path.read_bytes())
            if document["schema_version"] != 1:
                raise InputError(
                    f"{path}: schema {document['schema_version']}, this reads 1; "
                    "measure the baseline with this `edgepipe bench`"
                )
            return cls(document, path)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a bench.json ({error})") from error

    def compare(
        self, row: Mapping[str, Any], host: Mapping[str, Any], max_slowdown: float
    ) -> Comparison:
        """Judge a row of a bench by the same one here.

        Timings of another machine, with other threads or not valid say nothing about a change.
        """

        def unknown(reason: str) -> Comparison:
            return Comparison(INCONCLUSIVE, max_slowdown, reason=reason)

        old = self._cells.get(tuple(row[key] for key in KEY))
        if old is None:
            return unknown(f"not in {self.path}")
        there = self._hosts.get(row["target"], {})
        for fact in ("cpu", "physical_cores"):
            if there.get(fact) != host.get(fact):
                return unknown(f"another machine: {fact} was {there.get(fact)}")
        for setting in SAME:
            if old[setting] != row[setting]:
                return unknown(f"{setting} was {old[setting]}, now {row[setting]}")
        for name, cell in (("baseline", old), ("measurement", row)):
            if cell["verdict"] != VALID:
                return unknown(f"the {name} is {cell['verdict']}")
        return compare(row["round_ms"], old["round_ms"], max_slowdown, paired=False)
