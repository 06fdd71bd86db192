"""How long candidates take beside the int8 that export made, by turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...cells.plan import plan
from ...cells.session import Cell
from ...numerics import ratios
from ...progress import Progress
from ...settings.machine import Places
from ...settings.speed import BenchConfig
from ...speed.turns import Turns
from ...speed.visits import Entry, Schedule, Source
from ...storage.workspace import Workspace
from .search_result import Speed

SECONDS = 0.3


def measure(
    source: Source,
    incumbent: str,
    files: Mapping[str, Path],
    section: BenchConfig,
    places: Places,
    generations: int,
    progress: Progress,
) -> dict[str, tuple[Speed, ...]]:
    """The speeds of variants whose files aren't in the workspace yet, on every runner there is."""
    asked = section.model_copy(update={"variants": (incumbent,), "tuned": False})
    cells, _ = plan(source.workspace.folder, source.manifest, asked, places, section.scenario)
    found: dict[str, list[Speed]] = {name: [] for name in files}
    for cell in cells:
        old = Entry(cell, source)
        new = {name: _beside(old, name, path) for name, path in files.items()}
        turns = Turns([old, *new.values()], Schedule(generations, SECONDS), progress)
        turns.run()
        if turns.visits[old].error:
            continue  # a runner that isn't there, or can't run int8
        for name, entry in new.items():
            found[name].append(_speed(turns, entry, old, cell))
    return {name: tuple(speeds) for name, speeds in found.items()}


def _beside(old: Entry, variant: str, path: Path) -> Entry:
    """The same cell with another file."""
    place = Workspace(path.parent.parent, path.parent.name)
    cell = replace(old.cell, variant=variant, file=path.name)
    return Entry(cell, replace(old.source, workspace=place))


def _speed(turns: Turns, new: Entry, old: Entry, cell: Cell) -> Speed:
    if error := turns.visits[new].error:
        return Speed(cell.runner, None, reason=str(error))
    ratio = turns.ratio(new, old)
    if ratio is None:
        return Speed(cell.runner, None, reason="they never took turns")
    verdict = ratios.verdict(ratio.inverse)
    return Speed(cell.runner, ratio.value, ratio.ci95, verdict)
