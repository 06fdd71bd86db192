"""Options of onnx_nodes.py: which runners, where, and whether to write down what fails."""

from __future__ import annotations

import pytest

RUNNERS = ["ort-cpu", "openvino", "ort-openvino"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Seen where this folder is named: ``pytest tests/nodes/onnx_nodes.py --runner openvino``."""
    parser.addoption(
        "--runner",
        action="append",
        default=None,
        metavar="NAME",
        help=f"may be repeated [default: {', '.join(RUNNERS)}]",
    )
    parser.addoption(
        "--python",
        default=None,
        metavar="PATH",
        help="the interpreter that has the runner [default: its environment's, or this one]",
    )
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what fails into the lists of expected failures, to be read in the diff",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test is one of a runner."""
    if "runner" in metafunc.fixturenames:
        runners = metafunc.config.getoption("--runner") or RUNNERS
        metafunc.parametrize("runner", runners, scope="session")
