"""Labels: the names of a model's classes, from text or from JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from ..base import ModelError

TAKEN = 'a list of names, or {"0": "cat", "1": "dog"} (or ["n02123045", "cat"] for "cat")'
# What JSON begins with and a line of text hardly: "[background]" is a label.
BEGINS_JSON = re.compile(r'\{|\[\s*(["\[\]{]|$)')
INDEX = re.compile(r"[0-9]{1,9}")
MOST_LISTED = 3


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels in the order of the model's classes: text with one a line, or JSON.

    JSON is a list of names or an object from index to name; a list in place of a name stands for
    its last string. Raises ``ModelError`` for a file that can't be read, is no UTF-8, has an empty
    line in it, or is other JSON; indices that are missing or there twice are named.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: no UTF-8 text") from error
    try:
        if path.suffix.lower() == ".json" or BEGINS_JSON.match(text.lstrip()):
            return check_labels(_from_json(text))
        return check_labels([line.strip() for line in text.rstrip().splitlines()])
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def check_labels(labels: Any) -> tuple[str, ...]:
    """Labels as they have to be. Raises ``ValueError`` that says what is wrong with them."""
    if not isinstance(labels, list) or not labels:
        raise ValueError("no labels in it")
    for number, label in enumerate(labels, 1):
        if not isinstance(label, str) or not label or not label.isprintable():
            raise ValueError(f"label {number} is {label!r}")
    return tuple(labels)


def _from_json(text: str) -> list[str]:
    try:
        # Pairs, since a dict would keep the last of two equal indices and say nothing.
        content = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error}); taken are text and JSON: {TAKEN}") from error
    if isinstance(content, list):
        return [_name(label) for label in content]
    if not isinstance(content, tuple) or not all(INDEX.fullmatch(key) for key, _ in content):
        raise ValueError(f"other JSON than is taken: {TAKEN}")
    found: dict[int, str] = {}
    twice: list[int] = []
    for key, label in content:
        if int(key) in found:
            twice.append(int(key))
        found[int(key)] = _name(label)
    if twice:
        raise ValueError(f"there twice: index {_listed(twice)}")
    last = max(found, default=-1)
    if len(found) <= last:
        missing = _listed(index for index in range(last) if index not in found)
        raise ValueError(f"the last index is {last}, and missing: index {missing}")
    return [found[index] for index in range(len(found))]


def _name(label: Any) -> str:
    name = label[-1] if isinstance(label, list) and label else label
    if not isinstance(name, str):
        raise ValueError(f"other JSON than is taken: {TAKEN}")
    return name.strip()


def _listed(indices: Iterable[int]) -> str:
    first = [str(index) for index in islice(indices, MOST_LISTED + 1)]
    return ", ".join(first[:MOST_LISTED]) + (" and more" if first[MOST_LISTED:] else "")
