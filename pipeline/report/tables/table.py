"""A table: built once, then shown in a terminal, as Markdown or on a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich import table as rich

from ...numerics.ratios import FASTER, SLOWER, UNDECIDED
from ...speed.tune import RECOMMENDED
from ...speed.validity import INVALID, NOISY, VALID
from ...verdicts import FAIL, INCONCLUSIVE, PASS
from .formatting import NONE

GOOD, WARN, BAD, PLAIN = "good", "warn", "bad", "plain"
TONES = {
    PASS: GOOD,
    VALID: GOOD,
    RECOMMENDED: GOOD,
    FASTER: GOOD,
    SLOWER: BAD,
    UNDECIDED: WARN,
    INCONCLUSIVE: WARN,
    NOISY: WARN,
    FAIL: BAD,
    INVALID: BAD,
    "failed": BAD,
    f"parity {FAIL}": BAD,
    f"parity {INCONCLUSIVE}": WARN,
    # What becomes of a rollout's waves and boxes.
    "passed": GOOD,
    "deployed": GOOD,
    "unchanged": GOOD,
    "refused": BAD,
    "unknown": BAD,
    "rolled back": WARN,
    "changed since": WARN,
    "away": WARN,
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
Get = Callable[[Any], Value | None]


@dataclass(frozen=True)
class Column:
    """``get`` is its value in a row, ``None`` where there is none. A ``figure`` stands right.

    ``group`` spans the columns of one command. ``brief`` is the heading where room is scarce, and
    a ``wide`` one is left out there. One that ``wraps`` makes room for the others.
    """

    title: str
    get: Get = str
    figure: bool = False
    group: str = ""
    brief: str = ""
    wide: bool = False
    wraps: bool = False


def figure(title: str, get: Get = str, brief: str = "", group: str = "") -> Column:
    """A column that stands right."""
    return Column(title, get, figure=True, brief=brief, group=group)


@dataclass(frozen=True)
class Table:
    """``rows`` have a value for each column; the first one names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    @classmethod
    def of(cls, columns: Sequence[Column], things: Iterable[Any], caption: str = "") -> Table:
        """A row for each of these things."""

        def row(thing: Any) -> tuple[Value, ...]:
            found = (column.get(thing) for column in columns)
            return tuple(NONE if value is None else value for value in found)

        return cls(caption, tuple(columns), tuple(map(row, things)))

    def without(self, empty: Callable[[Column], str | None]) -> Table:
        """The same without columns that have nothing but what is ``empty`` for them."""
        kept = [
            place
            for place, column in enumerate(self.columns)
            if any(row[place] != empty(column) for row in self.rows)
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

    def text(self) -> rich.Table:
        """For a terminal."""
        made = rich.Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for one in self.columns:
            if not one.wide:
                side = "right" if one.figure else "left"
                title, cut = one.brief or one.title, "fold" if one.wraps else "ellipsis"
                made.add_column(title, justify=side, no_wrap=not one.wraps, overflow=cut)
        for row in self.rows:
            shown = (value for one, value in zip(self.columns, row, strict=True) if not one.wide)
            made.add_row(*(one.word if isinstance(one, Verdict) else one for one in shown))
        return made

    def markdown(self, verdict: Callable[[Verdict], str] = str) -> str:
        """Without its caption."""
        heads = (f"{one.group}: {one.title}" if one.group else one.title for one in self.columns)
        shown = [
            [verdict(one) if isinstance(one, Verdict) else one for one in r] for r in self.rows
        ]
        ruler = "|".join("---:" if column.figure else "---" for column in self.columns)
        lines = [f"| {' | '.join(map(escaped, row))} |" for row in (heads, *shown)]
        return "\n".join([lines[0], f"|{ruler}|", *lines[1:]])


def escaped(text: str) -> str:
    """Text that stays text inside a Markdown table."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|\[\]*`])", r"\\\1", text)
