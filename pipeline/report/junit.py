"""Parity as JUnit XML: one test case a cell, for the test view of a CI server."""

from __future__ import annotations

from pathlib import Path

from ...exporters.base import MissingLibrary
from ..gates import FAIL, INCONCLUSIVE
from ..stages.parity import CellVerdict, ParityResult
from ..workspace import writing


def write(result: ParityResult, path: Path) -> None:
    """Write the file. A failed gate is a failure, a failed runner or a doubt an error.

    Raises ``MissingLibrary`` without junitparser, ``WorkspaceError`` if it can't be written.
    """
    try:
        from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[report]"') from error

    suite = TestSuite("edgepipe parity")
    suite.add_property("model", str(result.model["name"]))
    for cell in result.cells:
        case = TestCase(f"{cell.variant} {cell.precision or ''}".strip(), _class_name(cell))
        reason = cell.reason or ""
        if cell.verdict == FAIL:
            case.result = [Failure(reason, "parity")]
        elif cell.verdict == INCONCLUSIVE:
            case.result = [Error(reason, "inconclusive")]
        elif cell.status == "failed":
            case.result = [Error(reason, "runner")]
        elif cell.status == "unavailable":
            case.result = [Skipped(reason)]
        case.system_out = _figures(cell)
        suite.add_testcase(case)
    document = JUnitXml("edgepipe")
    document.add_testsuite(suite)
    document.update_statistics()
    with writing(path):
        document.write(str(path), pretty=True)


def _class_name(cell: CellVerdict) -> str:
    return f"parity.{cell.target or 'local'}.{cell.runner}"


def _figures(cell: CellVerdict) -> str:
    if cell.status != "ok":
        return ""
    figures = {
        "SQNR dB": cell.sqnr_db,
        "cosine": cell.cosine,
        "max abs": cell.max_abs,
        "top-1 agreement": cell.top1_agreement,
        "samples": cell.samples,
    }
    return ", ".join(f"{name} {value:.6g}" for name, value in figures.items() if value is not None)
