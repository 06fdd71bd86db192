"""Modules of the user's own: what they may be called, what may go wrong in them, how they fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepipe.exporters import modules
from edgepipe.exporters.base import ModelError
from edgepipe.exporters.folding import fold
from edgepipe.runners.images import Preprocessing, normalize

CODE = """
import torch
from torch import nn

net = nn.Linear(3, 2)


class Nested:
    def build(self):
        return nn.Dropout()


holder = Nested()


def raises():
    raise ValueError("two lines\\nof text")


def leaves():
    raise SystemExit(3)


def nothing():
    return None


def sized(features, bias=True):
    print("weights loaded")
    if features < 0:
        raise ValueError(f"{features} features")
    return nn.Linear(3, features, bias=bias)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, called differently in each test: imports are cached."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize(
    ("text", "known"),
    [("a:b", True), ("a.b:c.d", True), ("mobilenet_v2", False), ("a:", False), ("a/b:c", False)],
)
def test_what_is_a_reference(text: str, known: bool) -> None:
    assert modules.is_reference(text) is known


def test_an_instance_or_something_that_returns_one(package: str) -> None:
    assert isinstance(modules.build(f"{package}:net"), torch.nn.Linear)
    built = modules.build(f"{package}:holder.build")
    assert (type(built), built.training) == (torch.nn.Dropout, False)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("raises", "raised ValueError: two lines"),
        ("leaves", "raised SystemExit: 3"),
        ("nothing", "gives NoneType, not an nn.Module"),
        ("nett", "there is no nett; did you mean net?"),
    ],
)
def test_what_goes_wrong_in_their_code_is_theirs(package: str, attribute: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        modules.build(f"{package}:{attribute}")
    assert str(caught.value).startswith(f"{package}:{attribute}")
    assert words in str(caught.value)


def test_what_makes_it_is_called_with_arguments(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    built = modules.build(f"{package}:sized", {"features": 7, "bias": False})
    assert isinstance(built, torch.nn.Linear)
    assert (built.out_features, built.bias) == (7, None)
    # Standard output is for a command's result.
    assert capsys.readouterr() == ("", "weights loaded\n")


@pytest.mark.parametrize(
    ("attribute", "arguments", "words"),
    [
        ("sized", {}, "missing a required argument: 'features'; it takes features, bias=True"),
        ("sized", {"features": 1, "depth": 2}, "unexpected keyword argument 'depth'; it takes"),
        ("sized", {"features": -1}, "sized(features=-1), run in"),
        ("net", {"features": 1}, "is Linear, which is not called"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(
    package: str, attribute: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ModelError) as caught:
        modules.build(f"{package}:{attribute}", arguments)
    assert str(caught.value).startswith(f"{package}:{attribute}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_looked_for_here(package: str) -> None:
    with pytest.raises(ModelError, match="No module named 'no_such_thing'"):
        modules.build("no_such_thing:x")


def test_the_digest_is_of_weights_and_code(package: str, tmp_path: Path) -> None:
    net = modules.build(f"{package}:net")
    before = modules.digest(net)
    assert modules.digest(net) == before
    with (tmp_path / f"{package}.py").open("a") as file:
        file.write("# changed\n")
    after = modules.digest(net)
    assert after != before
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert modules.digest(net) not in (before, after)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_folding_is_the_same_arithmetic(channels: str) -> None:
    preprocessing = replace(Preprocessing.preset("imagenet", 16), channels=channels)
    reverse = channels == "bgr"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    folded = fold(torch.nn.Identity(), preprocessing.mean, preprocessing.std, reverse)
    found = folded(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, normalize(pixels, preprocessing), atol=1e-6)
