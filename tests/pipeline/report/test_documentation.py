"""The reference of the JSON documents is made from the classes, and is up to date."""

from __future__ import annotations

from pathlib import Path

from edgepipe.pipeline.report import documentation

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "json.md"


def test_the_page_is_what_the_classes_say() -> None:
    again = "python -m edgepipe.pipeline.report.documentation > docs/reference/json.md"
    assert PAGE.read_text() == documentation.markdown(), f"out of date: {again}"


def test_every_class_that_is_referred_to_is_described() -> None:
    text = documentation.markdown()
    for name in {part.split(")")[0] for part in text.split("](#")[1:]}:
        assert f"### {name}" in text.lower()
