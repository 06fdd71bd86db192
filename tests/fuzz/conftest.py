"""The fuzz session's options, and the files that it spoils."""

from __future__ import annotations

from pathlib import Path

import pytest

from .world import World, make


def pytest_addoption(parser: pytest.Parser) -> None:
    """Only seen where this folder is named: ``pytest tests/fuzz --mutations 50``."""
    group = parser.getgroup("fuzz")
    group.addoption("--mutations", type=int, default=2000, metavar="N")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="N")
    group.addoption("--fuzz-seconds", type=float, default=300, metavar="S", help="no case after")
    group.addoption("--fuzz-case", type=int, default=None, metavar="N", help="this one alone")
    group.addoption("--fuzz-world", default=None, metavar="DIR", help="keep what is made there")


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A workspace and a bundle with everything in it. Don't write to it."""
    kept = request.config.getoption("--fuzz-world")
    return make(Path(kept).absolute() if kept else tmp_path_factory.mktemp("world"))
