"""Arguments for what makes a module: which value a text is, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from edgepipe.exporters.own import arguments


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pretrained=true", True),
        ("classes=10", 10),
        ("rate=0.5", 0.5),
        ("layers=[2,2]", [2, 2]),
        ("head=null", None),
        ("name=resnet18", "resnet18"),
        ("name=resnet18.a1_in1k", "resnet18.a1_in1k"),
        ('name="10"', "10"),
        ("url=https://a/?b=c", "https://a/?b=c"),
        ("version=0123", "0123"),
        ("empty=", ""),
        ("extra={}", {}),
    ],
)
def test_a_value_is_json_or_else_text(text: str, value: Any) -> None:
    found = arguments.parse(text)[1]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pretrained", "an argument is NAME=VALUE"),
        ("=3", "an argument is NAME=VALUE"),
        ("a-b=3", "an argument is NAME=VALUE"),
        ("class=3", "an argument is NAME=VALUE"),
        ("pretrained=False", "write pretrained=false"),
        ("head=None", "write head=null"),
        ("layers=[2,", "begins like JSON"),
        ("rates=[1e999]", "begins like JSON"),
        ("layers=" + "[" * 100_000, "begins like JSON"),
    ],
)
def test_a_value_that_would_be_mistaken_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        arguments.parse(text)


def test_none_is_given_twice() -> None:
    assert arguments.read(("a=1", "b=x")) == {"a": 1, "b": "x"}
    with pytest.raises(ValueError, match="a is given twice"):
        arguments.read(("a=1", "a=2"))


@pytest.mark.parametrize(
    "value", [True, 3, 0.5, "text", "true", "3", "None", "[a", "", [1, "b"], None]
)
def test_what_is_shown_reads_as_the_same(value: Any) -> None:
    (text,) = arguments.shown({"a": value})
    assert arguments.parse(text) == ("a", value)


def make(
    name: str, layers: tuple[int, ...] = (2,) * 20, *, bias: bool = False, **more: Any
) -> None:
    """Something to call."""


def test_what_can_not_be_called_so_is_told_what_it_takes() -> None:
    assert arguments.misfit(make, {"name": "a", "other": 1}) is None
    assert arguments.misfit(dict, {"anything": 1}) is None
    missing = arguments.misfit(make, {"bias": True})
    assert missing == (
        "missing a required argument: 'name'; it takes name, layers=…, bias=False, **more "
        "(--arg NAME=VALUE)"
    )
    unknown = arguments.misfit(lambda: None, {"classes": 3})
    assert unknown == (
        "got an unexpected keyword argument 'classes'; it takes nothing (--arg NAME=VALUE)"
    )
