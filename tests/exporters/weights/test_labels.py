"""Labels from text and from JSON, and what is wrong with those that can't be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.weights.labels import read_labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\ndog\n\n"),
        ("a.json", '["cat", "dog"]'),
        ("a.txt", '\n["cat",\n "dog"]'),
        ("a.json", '{"1": "dog", "0": "cat"}'),
        ("a.txt", '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"]}'),
    ],
)
def test_labels_are_taken_as_text_and_as_json(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == ("cat", "dog")


def test_brackets_in_text_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[background]\ncat\n")
    assert read_labels(tmp_path / "a.txt") == ("[background]", "cat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"0": "cat"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("3", "other JSON than is taken: a list of names, or"),
        ('{"cat": 0, "dog": 1}', "other JSON than is taken"),
        ('{"0": {"name": "cat"}}', "other JSON than is taken"),
        ("[1, 2]", "other JSON than is taken"),
        ("{}", "no labels in it"),
        ('["cat", ""]', "label 2 is ''"),
        ('{"0": "cat", "2": "dog"}', "the last index is 2, and missing: index 1"),
        ('{"999999999": "cat"}', "missing: index 0, 1, 2 and more"),
        ('{"0": "cat", "1": "dog", "00": "eel", "1": "ant"}', "there twice: index 0, 1"),
    ],
)
def test_other_json_is_refused_with_what_is_taken(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)
