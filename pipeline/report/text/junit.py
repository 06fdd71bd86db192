"""Parity or accuracy as JUnit XML: one test case a cell, for the test view of a CI server."""

from __future__ import annotations

from pathlib import Path

from ...errors import MissingLibrary
from ...judging.evaluate_result import CellAccuracy, EvaluationResult
from ...judging.parity_result import CellVerdict, ParityResult
from ...storage.atomic import writing
from ...verdicts import FAIL, INCONCLUSIVE


def write(result: ParityResult | EvaluationResult, path: Path) -> None:
    """Write the file. A failed gate is a failure, a failed runner or a doubt an error.

    Raises ``MissingLibrary`` without junitparser, ``WorkspaceError`` if it can't be written.
    """
    try:
        from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
    except ImportError as error:
        raise MissingLibrary(f'{error}; pip install "edgepipe[report]"') from error

    command = "parity" if isinstance(result, ParityResult) else "evaluate"
    suite = TestSuite(f"edgepipe {command}")
    suite.add_property("model", str(result.model["name"]))
    for cell in result.cells:
        name = f"{cell.variant} {cell.precision or ''}".strip()
        case = TestCase(name, f"{command}.{cell.target or 'local'}.{cell.runner}")
        reason = cell.reason or ""
        if cell.verdict == FAIL:
            case.result = [Failure(reason, command)]
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


def _figures(cell: CellVerdict | CellAccuracy) -> str:
    if cell.status != "ok":
        return ""
    figures = cell.figures().items()
    return ", ".join(f"{name} {value:.6g}" for name, value in figures if value is not None)
