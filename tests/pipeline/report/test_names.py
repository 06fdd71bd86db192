"""Rows below a table are named so that each is one row of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgepipe.pipeline.report.tables.formatting import row_name


def row(**facts: Any) -> Any:
    plain = {"variant": "fp32", "runner": "ort-cuda", "precision": "f32", "batch": 1, "threads": 4}
    return SimpleNamespace(**{**plain, "target": "local", "device": "GPU", **facts})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, ""),
        ({"variant": "int8", "precision": "tf32"}, ""),
        ({"precision": "tf32"}, " f32"),
        ({"precision": None}, ""),
        ({"batch": 8}, " batch 1"),
        ({"threads": 1}, " 4 threads"),
        ({"target": "atom-01", "device": "CPU"}, " GPU on local"),
    ],
    ids=str,
)
def test_a_row_says_what_tells_it_from_others(other: dict[str, Any], said: str) -> None:
    assert row_name(row(), [row(), row(**other)]) == f"fp32/ort-cuda{said}"
