"""Results read back from a workspace: each held against the files that the manifest describes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...runners.bundles import npz
from ..errors import InputError, IntegrityError, WorkspaceError
from ..speed.bench_result import SAMPLES, BenchResult, CellResult
from ..speed.comparison.compare import CompareResult
from ..storage.document import OtherSchema, Result, changed
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace

CURRENT, MISSING, OUTDATED = "current", "missing", "out of date"
OTHERS = "made by another edgepipe"

Found = TypeVar("Found", bound=Result)


@dataclass(frozen=True)
class Source:
    """What became of a result file: "current", "missing" or "out of date", and why.

    ``command`` is what makes the file, or makes it again.
    """

    file: str
    command: str
    state: str
    reason: str = ""


def read(folder: Path, kind: type[Found], manifest: Manifest) -> tuple[Found | None, Source]:
    """A result that is about the manifest's artifacts, or ``None``; and what became of its file.

    Raises ``InputError`` for a file that no command has written.
    """
    source = partial(Source, kind.FILE, kind.MADE_BY)
    try:
        result = kind.load(folder / kind.FILE)
    except OtherSchema:
        return None, source(OUTDATED, OTHERS)
    if result is None:
        return None, source(MISSING)
    if stale := result.stale(manifest.digests):
        return None, source(OUTDATED, f"made from another {', '.join(stale)}")
    return result, source(CURRENT)


def read_comparison(root: Path) -> tuple[CompareResult | None, Source]:
    """``read`` for the models of a workspace, each held against its own manifest."""
    source = partial(Source, CompareResult.FILE, CompareResult.MADE_BY)
    try:
        result = CompareResult.load(root / CompareResult.FILE)
    except OtherSchema:
        return None, source(OUTDATED, OTHERS)
    if result is None:
        return None, source(MISSING)
    for model, artifacts in result.artifacts.items():
        try:
            manifest = Workspace(root, model).manifest() or Manifest()
        except (IntegrityError, WorkspaceError):
            return None, source(OUTDATED, f"the manifest of {model} can't be read")
        if stale := changed(artifacts, manifest.digests):
            return None, source(OUTDATED, f"made from another {', '.join(stale)} of {model}")
    return result, source(CURRENT)


def read_samples(
    folder: Path, bench: BenchResult | None
) -> tuple[dict[int, tuple[np.ndarray, ...]], Source]:
    """The samples of each row of ``bench.json``, in ms, an array for each generation.

    None where the file is missing or is another bench's. Raises ``InputError`` if damaged.
    """
    source = partial(Source, SAMPLES, BenchResult.MADE_BY)
    path = folder / SAMPLES
    if bench is None and path.exists():
        return {}, source(OUTDATED, f"there is no {BenchResult.FILE} that it belongs to")
    try:
        arrays = npz.read(path)
        npz.outputs({name: array[:1] for name, array in arrays.items()}, 1)
        found = {
            int(name): tuple(
                part / 1e6
                for part in np.split(array, np.cumsum(arrays[f"{name}.generations"])[:-1])
            )
            for name, array in arrays.items()
            if name.isdigit()
        }
    except FileNotFoundError:
        return {}, source(MISSING)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        again = f"run `{BenchResult.MADE_BY}` again"
        raise InputError(f"{path}: can't be read ({error}); {again}") from error
    cells = bench.cells if bench else ()
    measured = {number: cell for number, cell in enumerate(cells) if cell.samples}
    if found.keys() != measured.keys() or not all(
        _belongs(found[number], cell) for number, cell in measured.items()
    ):
        return {}, source(OUTDATED, f"not the samples that {BenchResult.FILE} was made from")
    return found, source(CURRENT)


def _belongs(generations: tuple[np.ndarray, ...], cell: CellResult) -> bool:
    """Whether these are the samples that the row's figures come from."""
    everything = np.concatenate(generations)
    if (len(generations), len(everything)) != (cell.generations, cell.samples):
        return False
    return cell.latency_ms is None or bool(
        np.isclose(everything.mean(), cell.latency_ms.mean, rtol=1e-6)
    )
