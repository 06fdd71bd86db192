"""The house: which room may import which, that none is crowded, and that no file is too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top of the house down: a room imports those below it. A file that stands in a floor's
# own folder is a room by itself; folders that aren't listed belong to the room they are in.
ORDER = (
    "pipeline/cli",
    "pipeline/__init__.py",
    "pipeline/report/write.py",
    "pipeline/report/page",
    "pipeline/report/plots",
    "pipeline/report",
    "pipeline/report/text",
    "pipeline/shipping/fleet",
    "pipeline/shipping/registry",
    "pipeline/shipping/watching",
    "pipeline/shipping",
    "pipeline/shipping/packing",
    "pipeline/report/tables",
    "pipeline/quantization/search",
    "pipeline/profiling",
    "pipeline/speed/soak",
    "pipeline/speed",
    "pipeline/intake",
    "pipeline/judging",
    "pipeline/training",
    "pipeline/stages",
    "pipeline/quantization/steps",
    "pipeline/quantization",
    "pipeline/machine",
    "pipeline/cells/cluster",
    "pipeline/cells",
    "pipeline/settings",
    "pipeline/storage",
    "pipeline/numerics",
    "pipeline/verdicts.py",
    "pipeline/progress.py",
    "pipeline/errors.py",
    "exporters/complexity.py",
    "exporters/weights",
    "exporters/zoo",
    "exporters",
    "runners/__init__.py",
    "runners/testing.py",
    "runners/environments",
    "runners/workers",
    "runners/bundles",
    "runners/backends",
    "runners/machine",
    "runners/timing",
    "runners",
)
MOST_ENTRIES = 12
MOST_LINES = 400
SOURCES = sorted(
    path for top in ("pipeline", "exporters", "runners") for path in (ROOT / top).rglob("*.py")
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(file: str) -> str:
    """The longest entry of the order that holds the file."""
    return max((one for one in ORDER if f"{file}/".startswith(f"{one}/")), key=len)


def imports(path: Path) -> Iterator[str]:
    """The files of the house that a file imports, also inside functions."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ROOT.joinpath(*package[: len(package) - node.level + 1])
            base = base.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                for found in (base / f"{alias.name}.py", base / alias.name / "__init__.py"):
                    if found.is_file():
                        yield name(found)
                        break
                else:
                    found = base.with_suffix(".py")
                    yield name(found if found.is_file() else base / "__init__.py")


ARROWS = {name(path): sorted(set(imports(path))) for path in SOURCES}


@pytest.mark.parametrize("file", ARROWS)
def test_a_file_imports_from_its_own_room_and_those_below(file: str) -> None:
    place = ORDER.index(room(file))
    upwards = [other for other in ARROWS[file] if ORDER.index(room(other)) < place]
    assert not upwards


def test_no_file_imports_itself_by_any_way() -> None:
    below: dict[str, set[str]] = {}

    def reach(file: str, way: tuple[str, ...]) -> set[str]:
        assert file not in way, " -> ".join((*way[way.index(file) :], file))
        if file not in below:
            below[file] = set().union(*(reach(one, (*way, file)) for one in ARROWS[file]))
        return below[file] | {file}

    for file in ARROWS:
        reach(file, ())


def test_every_room_of_the_order_is_there() -> None:
    assert not [one for one in ORDER if not (ROOT / one).exists()]


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name)
def test_a_room_can_be_taken_in_at_a_glance(folder: Path) -> None:
    inside = {path.name for path in folder.iterdir()} - {
        "__init__.py",
        "__main__.py",
        "__pycache__",
    }
    # The floor itself holds its rooms and what all of them share.
    assert len(inside) <= (18 if folder == ROOT / "pipeline" else MOST_ENTRIES), sorted(inside)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
