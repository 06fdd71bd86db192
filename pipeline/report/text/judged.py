"""Parity and accuracy of cells, as one table each and the reasons that stand below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...cells.cluster.spread import ClusterUse
from ...judging.evaluate_result import CellAccuracy, EvaluationResult
from ...judging.parity_result import CellVerdict, ParityResult
from ..tables import columns
from ..tables.formatting import apart
from ..tables.table import Column, Table

Cells = Sequence[CellVerdict | CellAccuracy]


def verdicts(result: ParityResult) -> Table:
    """How near each cell's outputs are to torch's."""
    twice = _twice(result.cells)
    shown = [one for one in columns.PARITY if twice or one not in columns.TWICE]
    return _table([*columns.PLACE, *shown], result.cells)


def accuracies(result: EvaluationResult) -> Table:
    """Right answers on labelled images, and what was lost against the reference."""
    twice = _twice(result.cells)
    shown = [one for one in columns.ACCURACY if twice or one not in columns.TWICE]
    # A terminal has no room for what says nothing.
    local = all(cell.target == "local" for cell in result.cells if cell.target)
    target = replace(columns.TARGET, wide=local)
    data = result.data
    caption = (
        f"{data['images']} images of {data['classes']} classes: {data['name']}; "
        "drops in percentage points, positive where accuracy was lost"
    )
    place = (columns.VARIANT, columns.RUNNER, target, columns.PRECISION)
    return _table([*place, *shown], result.cells, caption)


def notes(result: EvaluationResult) -> list[str]:
    """The reasons, what drops are counted from and the limit, and the result's own notes."""
    lines = reasons(result.cells)
    if reference := result.reference:
        limit = "no limit given (--max-drop)"
        if result.max_drop is not None:
            limit = f"at most {result.max_drop:g} points may be lost"
        place = f"{reference['variant']} on {reference['runner']} ({reference['target']})"
        lines.append(f"compared with {place}; {limit}")
    return [*lines, *result.notes]


def spread(use: ClusterUse | None) -> list[str]:
    """How the work was spread over a cluster, as a line if it was."""
    if use is None:
        return []
    counts = [f"{use.workers} workers of {use.address}: {use.shards} shards"]
    counts += [f"{use.resumed} from an interrupted run"] if use.resumed else []
    counts += [f"{use.retried} tried again"] if use.retried else []
    return [", ".join(counts)]


def _twice(cells: Cells) -> bool:
    """Whether any has its file's figures beside its kernels'."""
    return any(cell.file_max_abs is not None or cell.fault for cell in cells)


def reasons(cells: Cells) -> list[str]:
    """A line for each cell with something to say, and one for each runner that isn't there."""
    lines = []
    for cell in cells:
        if cell.reason:
            state = "" if cell.status == "ok" else f"{cell.status}: "
            variant = "" if cell.status == "unavailable" else cell.variant
            place = "/".join(part for part in (variant, cell.runner, cell.target) if part)
            others = apart(cell, cells) if variant else {}
            others.pop("target", None)
            lines.append(f"{' '.join((place, *others.values()))}: {state}{cell.reason}")
    return list(dict.fromkeys(lines))


def _table(shown: Sequence[Column], cells: Cells, caption: str = "") -> Table:
    return Table.of(shown, [cell for cell in cells if cell.status != "unavailable"], caption)
