"""What holds of every outcome, whatever was combined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What ``--json`` printed: one document, and nothing else."""
        return strict(self.out)

    @property
    def said(self) -> str:
        """For people who wonder why it ended so."""
        if not self.out.startswith("{"):
            return self.err + self.out
        cells = self.document.get("cells", ())
        return self.err + "\n".join(f"{c['status']} {c['verdict']} {c['reason']}" for c in cells)

    @property
    def error(self) -> str:
        """The one line that it ended with."""
        (line,) = (line for line in self.err.splitlines() if line.startswith("edgepipe: "))
        return line.removeprefix("edgepipe: ")


def strict(text: str) -> Any:
    """JSON as the standard has it: without NaN and infinities."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def valid_files(root: Path) -> None:
    """Every document in a workspace is JSON."""
    for path in root.rglob("*.json"):
        strict(path.read_text())


def case(*values: Any, id: str, pending: str = "") -> Any:  # noqa: A002 - as pytest calls it
    """A row of a table. ``pending`` is a fault that is known: the row fails until it is mended."""
    marks: Sequence[Any] = (pytest.mark.xfail(reason=pending, strict=True),) if pending else ()
    return pytest.param(*values, id=id, marks=marks)


def one_line(reason: str | None) -> None:
    """A reason is there, says something, and is one line."""
    assert reason
    assert "\n" not in reason
    assert "Traceback" not in reason
