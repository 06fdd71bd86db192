"""What the build machine measured, as far as it is about the very files that are to be shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...runners import documents
from ...runners.bundles.bundle import Variant
from ...runners.timing.plan import SINGLE_STREAM
from ..errors import InputError
from ..judging.gates import Gate
from ..verdicts import FAIL, PASS

# (variant, runner, precision) -> the limits that hold now
GateOf = Callable[[str, str, str], Gate]


class MalformedEvidence(InputError):
    """A result of another edgepipe, or of nobody's. One line: the file, and what it lacks."""


def read(path: Path) -> dict[str, Any] | None:
    """A result that a command left in the workspace, ``None`` if there is none."""
    try:
        document = documents.parse(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no result of edgepipe ({error})") from error
    if not isinstance(document.get("cells"), list):
        raise InputError(f"{path}: no result of edgepipe")
    return document


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn what a result lacks, or has of another type, into a ``MalformedEvidence``."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        text = f"{type(error).__name__}: {error}"
        raise MalformedEvidence(f"{path}: no result of this edgepipe ({text})") from error


def outdated(document: Mapping[str, Any], digests: Mapping[str, str]) -> list[str]:
    """The files that a result is not about: another digest, or none at all."""
    seen = document.get("artifacts", {})
    return [name for name, digest in digests.items() if seen.get(name) != digest]


def parity_problems(
    document: Mapping[str, Any] | None,
    variants: Mapping[str, Variant],
    digests: Mapping[str, str],
    gate_of: GateOf,
) -> list[str]:
    """Why a parity result does not carry these variants, nothing if it does.

    Every file needs a cell that passed under the gates of today, and none that failed. A failure
    on a machine that the variant is not for says nothing against it: ``verify`` refuses it there.
    """
    if document is None:
        return ["there is no parity.json"]
    if stale := outdated(document, digests):
        return [f"parity.json is not about this {name}" for name in stale]
    problems = [str(problem) for problem in document.get("problems", ())]
    for name, variant in variants.items():
        cells = [cell for cell in document["cells"] if cell["variant"] == name]
        problems += [
            f"{name} fails on {cell['runner']} ({cell['target']}): {cell['reason']}"
            for cell in cells
            if (cell["verdict"] == FAIL or cell["status"] == "failed")
            and variant.misfit(document["hosts"].get(cell["target"], {})) is None
        ]
        passed = [cell for cell in cells if cell["verdict"] == PASS]
        misfits = [variant.misfit(document["hosts"].get(cell["target"], {})) for cell in cells]
        where = "; judge it on a CPU with VNNI, or leave it out" if any(misfits) else ""
        problems += [
            f"no cell passed with {files[0]}{where}"
            for files in variant.files.values()
            if files[0] not in {cell["file"] for cell in passed}
        ]
        problems += [
            f"{name} passed on {cell['runner']} under other gates than today's"
            for cell in passed
            if cell["gate"] != asdict(gate_of(name, cell["runner"], cell["precision"]))
        ]
    return problems


def recorded_p50(
    document: Mapping[str, Any] | None, variant: str, runner: str, precision: str
) -> float | None:
    """What bench measured for a cell on the build machine, ms; ``None`` if it didn't."""
    for cell in (document or {}).get("cells", ()):
        same = (cell["variant"], cell["runner"], cell["precision"]) == (variant, runner, precision)
        alike = cell["scenario"] == SINGLE_STREAM and cell["target"] == "local"
        if same and alike and cell["latency_ms"]:
            return float(cell["latency_ms"]["p50"])
    return None


def precisions(document: Mapping[str, Any] | None) -> Iterable[str]:
    """The precisions that any cell was computed in."""
    return dict.fromkeys(
        cell["precision"] for cell in (document or {}).get("cells", ()) if cell["status"] == "ok"
    )
