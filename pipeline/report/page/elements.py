"""What a report is made of: tables, and verdicts that show without colour."""

from __future__ import annotations

from dataclasses import dataclass

from ...speed.tune import RECOMMENDED
from ...speed.validity import INVALID, NOISY, VALID
from ...verdicts import FAIL, INCONCLUSIVE, PASS

MIB = 1 << 20
NONE = "–"
GOOD, WARN, BAD, PLAIN = "good", "warn", "bad", "plain"
TONES = {
    PASS: GOOD,
    VALID: GOOD,
    RECOMMENDED: GOOD,
    INCONCLUSIVE: WARN,
    NOISY: WARN,
    FAIL: BAD,
    INVALID: BAD,
    "failed": BAD,
    f"parity {FAIL}": BAD,
    f"parity {INCONCLUSIVE}": WARN,
}
SHAPES = {GOOD: "✓", WARN: "◐", BAD: "✕", PLAIN: "○"}


@dataclass(frozen=True)
class Verdict:
    """A verdict: read by its word, seen by its shape, and only then by its colour."""

    word: str

    @property
    def tone(self) -> str:
        """ "good", "warn", "bad" or "plain"."""
        return TONES.get(self.word, PLAIN)

    def __str__(self) -> str:
        return f"{SHAPES[self.tone]} {self.word}"


Value = str | Verdict


@dataclass(frozen=True)
class Column:
    """``group`` spans the columns of one command."""

    title: str
    figure: bool = False
    group: str = ""


@dataclass(frozen=True)
class Table:
    """``rows`` have a value for each column; the first one names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def dense(self) -> Table:
        """The same without columns that say nothing in any row."""
        kept = [
            place
            for place, _ in enumerate(self.columns)
            if place == 0 or any(row[place] != "" for row in self.rows)
        ]
        columns = tuple(self.columns[place] for place in kept)
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return Table(self.caption, columns, rows)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The titles above the columns and how many each spans; empty if there are none."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []
