"""The loop over stages: what one that may fail costs, and what one that may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline.errors import StageError
from edgepipe.pipeline.progress import SILENT, Progress
from edgepipe.pipeline.stages.stage import run_stages
from edgepipe.pipeline.storage.manifest import Manifest
from edgepipe.pipeline.storage.workspace import MANIFEST, Transaction, Workspace
from edgepipe.runners.base import StorageFull


@dataclass(frozen=True)
class Writing:
    """Writes its name into a file of that name, and one more, and then maybe fails."""

    name: str
    requires: tuple[str, ...] = ()
    error: Exception | None = None

    @property
    def ensures(self) -> tuple[str, ...]:
        return (self.name,)

    def depends(self, transaction: Transaction) -> Mapping[str, Any]:
        return {}

    def run(self, transaction: Transaction, progress: Progress) -> Mapping[str, Any]:
        transaction.write(self.name, self.name.encode())
        if self.error:
            transaction.write(f"{self.name}.data", b"half of it")
            raise self.error
        return {}


BROKEN = StageError("broken")
STAGES = (
    Writing("float"),
    Writing("ranges", ("float",), BROKEN),
    Writing("int8", ("ranges",)),
    Writing("given", ("float",)),
)


def run(folder: Path, *stages: Writing, dispensable: tuple[str, ...]) -> dict[str, Exception]:
    place = Workspace(folder, "model")
    with place.locked("a test", pytest.fail), Transaction(place, Manifest()) as transaction:
        failed = run_stages(stages, place, Manifest(), transaction, SILENT, dispensable)
        transaction.commit()
    return failed


def test_a_failure_costs_what_it_makes_and_what_needs_that(tmp_path: Path) -> None:
    # Of an earlier state, which isn't what the later stage asks for.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "ranges").touch()
    failed = run(tmp_path, *STAGES, dispensable=("ranges", "int8"))
    assert failed == {"ranges": BROKEN, "int8": BROKEN}
    left = {path.name for path in (tmp_path / "model").iterdir()}
    assert left - {".lock"} == {"float", "given", "ranges", MANIFEST}
    assert not (tmp_path / "model" / "ranges").read_bytes()


@pytest.mark.parametrize(
    ("stages", "dispensable"),
    [
        (STAGES, ()),
        (STAGES, ("ranges",)),  # int8 has to be, and can't
        ((Writing("float", error=StorageFull("no space")),), ("float",)),
    ],
)
def test_what_has_to_be_there_or_is_no_fault_of_the_model_ends_it_all(
    tmp_path: Path, stages: tuple[Writing, ...], dispensable: tuple[str, ...]
) -> None:
    with pytest.raises((StageError, StorageFull)):
        run(tmp_path, *stages, dispensable=dispensable)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {".lock"}
