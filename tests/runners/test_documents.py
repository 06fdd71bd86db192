"""JSON documents: valid ones are written, and what is none is refused with the reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgepipe.pipeline
import edgepipe.runners
from edgepipe.runners import documents

FOLDERS = [Path(package.__path__[0]) for package in (edgepipe.pipeline, edgepipe.runners)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_not_is_never_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        documents.text({"deep": [{"figure": number}]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[1]", "object was expected, not list"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": [-Infinity]}', "-Infinity is no JSON number"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is in it twice"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "codec|Expecting"),
        ('{"a": ' + "9" * 5000 + "}", "too large a number"),
    ],
)
def test_what_is_no_document_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        documents.parse(text)


def test_a_document_comes_back() -> None:
    value = {"name": "é", "figures": [1, 2.5, None], "more": {}}
    assert documents.parse(documents.text(value)) == value


def test_every_writer_of_json_says_what_becomes_of_nan() -> None:
    """``documents.text`` refuses it; whoever writes JSON by another way has to decide as well."""
    silent = [
        f"{path.name}:{call.lineno}"
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("json.dump", "json.dumps")
        and "allow_nan" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not silent
