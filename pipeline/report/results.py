"""Results read back from a workspace: each checked, and held against the manifest's artifacts.

What the judging commands write is theirs to define; here it becomes their own row types again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from ...runners import documents
from ..errors import InputError, IntegrityError, WorkspaceError
from ..judging.accuracies import CellAccuracy
from ..judging.explanation import Blame
from ..judging.judged import CellVerdict
from ..numerics import metrics
from ..speed.compare import RESULT_FILE as COMPARISON
from ..speed.compare import Candidate
from ..speed.convolutions import Convolution
from ..speed.rows import CellResult
from ..speed.tune import RESULT_FILE as TUNING
from ..speed.tune import Tuned
from ..storage import npz
from ..storage.manifest import Manifest
from ..storage.workspace import Workspace

SCHEMA_VERSION = 1
BENCH, SAMPLES = "bench.json", "bench.npz"
PARITY, EVALUATION, EXPLANATION = "parity.json", "evaluation.json", "explain.json"
MADE_BY = {
    BENCH: "edgepipe bench",
    SAMPLES: "edgepipe bench",
    PARITY: "edgepipe parity",
    EVALUATION: "edgepipe evaluate",
    EXPLANATION: "edgepipe parity --explain",
    TUNING: "edgepipe tune",
    COMPARISON: "edgepipe compare",
}
# A layer that is not finite or of another shape (``LayerError.state``), and one with a figure.
BROKEN, MEASURED = "broken", "measured"
CURRENT, MISSING, OUTDATED = "current", "missing", "out of date"

Hosts = Mapping[str, Mapping[str, Any]]
Result = TypeVar("Result", bound="_Result")
Document = TypeVar("Document")


@dataclass(frozen=True)
class _Result:
    """What every result file holds: the SHA-256 of each artifact that it is about."""

    artifacts: Mapping[str, str]


@dataclass(frozen=True)
class BenchFile(_Result):
    """``bench.json``."""

    hosts: Hosts
    scenario: str
    quick: bool
    baseline: str | None
    cells: tuple[CellResult, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ParityFile(_Result):
    """``parity.json``."""

    hosts: Hosts
    reference_sqnr_db: float | None
    reference_state: str
    cells: tuple[CellVerdict, ...]
    problems: tuple[str, ...]

    @property
    def reference(self) -> float:
        """Torch's float32 against its float64, dB; infinite where they are equal."""
        return metrics.distance(self.reference_sqnr_db, self.reference_state)


class Data(TypedDict):
    """What was evaluated on."""

    name: str
    images: int
    classes: int
    digest: str


class _Cell(TypedDict):
    variant: str
    runner: str
    target: str


@dataclass(frozen=True)
class EvaluationFile(_Result):
    """``evaluation.json``."""

    hosts: Hosts
    data: Data
    max_drop: float | None
    reference: _Cell | None
    notes: tuple[str, ...]
    cells: tuple[CellAccuracy, ...]


@dataclass(frozen=True)
class ExplainedLayer:
    """A layer of ``explain.json``, dB. ``None`` where ``state`` says why there is no figure."""

    layer: str
    operators: str
    tensor: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    clipped: float | None
    state: str


@dataclass(frozen=True)
class ExplainedFinding:
    """What the graph, the ranges or the CPU say about a cell."""

    text: str


@dataclass(frozen=True)
class ExplainedCell(Blame):
    """A cell of ``explain.json``. ``layers`` has the worst first, ``order`` the graph's order."""

    layers: tuple[ExplainedLayer, ...]
    order: tuple[str, ...]
    findings: tuple[ExplainedFinding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExplanationFile(_Result):
    """``explain.json``."""

    cells: tuple[ExplainedCell, ...]


@dataclass(frozen=True)
class TuneFile(_Result):
    """``tune.json``."""

    hosts: Hosts
    budget: float
    cells: tuple[Tuned, ...]


@dataclass(frozen=True)
class ComparisonFile:
    """``compare.json``, of a whole workspace. ``artifacts`` are by model, none for the zoo's."""

    artifacts: Mapping[str, Mapping[str, str]]
    host: Mapping[str, Any]
    quick: bool
    measured: str
    models: tuple[Candidate, ...]
    convolutions: tuple[Convolution, ...]


@dataclass(frozen=True)
class Source:
    """What became of a result file: "current", "missing" or "out of date", and why."""

    file: str
    state: str
    reason: str = ""

    @property
    def command(self) -> str:
        """What makes the file, or makes it again."""
        return MADE_BY[self.file]


def read(
    folder: Path, file: str, kind: type[Result], manifest: Manifest
) -> tuple[Result | None, Source]:
    """A result that is about the manifest's artifacts, or ``None``; and what became of its file.

    Raises ``InputError`` for a file that no command here has written.
    """
    result = _parsed(folder / file, kind)
    if result is None:
        return None, Source(file, MISSING)
    if changed := _changed(result.artifacts, manifest):
        return None, Source(file, OUTDATED, f"made from another {', '.join(changed)}")
    return result, Source(file, CURRENT)


def read_comparison(root: Path) -> tuple[ComparisonFile | None, Source]:
    """``read`` for the models of a workspace, each held against its own manifest."""
    result = _parsed(root / COMPARISON, ComparisonFile)
    if result is None:
        return None, Source(COMPARISON, MISSING)
    for model, artifacts in result.artifacts.items():
        try:
            manifest = Workspace(root, model).manifest() or Manifest()
        except (IntegrityError, WorkspaceError):
            return None, Source(COMPARISON, OUTDATED, f"the manifest of {model} can't be read")
        if changed := _changed(artifacts, manifest):
            why = f"made from another {', '.join(changed)} of {model}"
            return None, Source(COMPARISON, OUTDATED, why)
    return result, Source(COMPARISON, CURRENT)


def _parsed(path: Path, kind: type[Document]) -> Document | None:
    """A document as its type, ``None`` if there is none. Raises ``InputError`` for another one."""
    try:
        document = documents.parse(path.read_bytes())
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema {document['schema_version']}, this reads {SCHEMA_VERSION}")
        return TypeAdapter(kind).validate_python(document)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, documents.reason(error)) from error


def _changed(artifacts: Mapping[str, str], manifest: Manifest) -> list[str]:
    """The files that are no longer there as they were."""
    return [
        name
        for name, sha256 in sorted(artifacts.items())
        if name not in manifest.artifacts or manifest.artifacts[name].sha256 != sha256
    ]


def read_samples(
    folder: Path, bench: BenchFile | None
) -> tuple[dict[int, tuple[np.ndarray, ...]], Source]:
    """The samples of each row of ``bench.json``, in ms, an array for each round.

    None where the file is missing or is another bench's. Raises ``InputError`` if damaged.
    """
    path = folder / SAMPLES
    try:
        arrays = npz.read(path)
        npz.outputs({name: array[:1] for name, array in arrays.items()}, 1)
        found = {
            int(name): tuple(
                part / 1e6 for part in np.split(array, np.cumsum(arrays[f"{name}.rounds"])[:-1])
            )
            for name, array in arrays.items()
            if not name.endswith(".rounds")
        }
    except FileNotFoundError:
        return {}, Source(SAMPLES, MISSING)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _unreadable(path, str(error)) from error
    if bench is None:
        return {}, Source(SAMPLES, OUTDATED, f"there is no {BENCH} that it belongs to")
    measured = {number: cell for number, cell in enumerate(bench.cells) if cell.samples}
    if found.keys() != measured.keys() or not all(
        _belongs(found[number], cell) for number, cell in measured.items()
    ):
        return {}, Source(SAMPLES, OUTDATED, f"not the samples that {BENCH} was made from")
    return found, Source(SAMPLES, CURRENT)


def _belongs(rounds: tuple[np.ndarray, ...], cell: CellResult) -> bool:
    """Whether these are the samples that the row's figures come from."""
    everything = np.concatenate(rounds)
    if (len(rounds), len(everything)) != (cell.rounds, cell.samples):
        return False
    return cell.latency_ms is None or bool(
        np.isclose(np.median(everything), cell.latency_ms.p50, rtol=1e-6)
    )


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"{path}: can't be read ({why}); run `{MADE_BY[path.name]}` again")
