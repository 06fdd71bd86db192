"""Made-up workspaces for the tests of report."""

from __future__ import annotations

from pathlib import Path

import pytest

from .workspaces import MadeUp


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    """A workspace with every result. Don't write to it."""
    made_up = MadeUp(tmp_path_factory.mktemp("full"))
    made_up.everything()
    return made_up


@pytest.fixture(scope="session")
def full_page(full: MadeUp) -> str:
    """Its page."""
    return full.page()
