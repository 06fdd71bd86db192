"""What common trainers write: the dictionary that fits is found, whatever is around it."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.weights.checkpoints import read_states
from edgepipe.exporters.weights.fitting import MAX_DEPTH, Chosen, Expected, choose, dictionaries

State = dict[str, Any]


class Net(torch.nn.Module):
    """Two layers and a normalization, for some classes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
        self.head = torch.nn.Linear(5, classes)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


NET = Net().state_dict()
OTHER = {name: tensor + 1 for name, tensor in NET.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
AVERAGED = {"n_averaged": torch.tensor(7), **under("module.", NET)}
WRITTEN: dict[str, tuple[Any, str]] = {
    "bare": (NET, "."),
    "timm": ({"epoch": 3, "arch": "net", "state_dict": NET, "optimizer": OPTIMIZER}, "state_dict"),
    "timm, average": ({"epoch": 3, "state_dict_ema": NET}, "state_dict_ema"),
    "Lightning": (
        {"state_dict": under("model.", NET), "hyper_parameters": {"lr": 0.1}, "loops": {"a": {}},
         "optimizer_states": [OPTIMIZER]},
        "state_dict, without the prefix model.",
    ),
    "plain ultralytics": ({"epoch": -1, "model": None, "ema": OrderedDict(NET)}, "ema"),
    "torchvision": ({"model": NET, "optimizer": OPTIMIZER, "lr_scheduler": {"step": 1}}, "model"),
    "torchvision, average": ({"model_ema": AVERAGED}, "model_ema, without the prefix module."),
    "pytorch_model.bin": (
        under("base_model.", NET), "the top level, without the prefix base_model."
    ),
    "DDP": (under("module.", NET), "the top level, without the prefix module."),
    "compile": (under("_orig_mod.", NET), "the top level, without the prefix _orig_mod."),
    "both": (under("module._orig_mod.", NET),
             "the top level, without the prefix module._orig_mod."),
    "nested": ({"a": {"b": {"weights": under("net.backbone.", NET)}}},
               "a.b.weights, without the prefix net.backbone."),
    "a score beside it": ({"model": NET, "best": torch.tensor(0.9)}, "model"),
    "among other values": ({**NET, "epoch": 3}, "."),
}  # fmt: skip


def chosen(content: Any, folder: Path, key: str | None = None, any_classes: bool = True) -> Chosen:
    path = folder / "two.pt"
    torch.save(content, path)
    expected = Expected.with_any_classes(Net) if any_classes else Expected.of(Net())
    return choose(read_states(path), expected, path, key)


@pytest.mark.parametrize("any_classes", [True, False])
@pytest.mark.parametrize("trainer", WRITTEN)
def test_what_trainers_write_is_found(trainer: str, any_classes: bool, tmp_path: Path) -> None:
    content, origin = WRITTEN[trainer]
    found = chosen(content, tmp_path, any_classes=any_classes)
    assert found.origin.plain == (origin == ".")
    assert found.origin.plain or str(found.origin) == origin
    assert found.classes == (4 if any_classes else None)
    assert found.state.keys() == NET.keys()
    assert all(torch.equal(tensor, NET[name]) for name, tensor in found.state.items())


def test_several_that_fit_have_to_be_chosen_from_unless_they_are_equal(tmp_path: Path) -> None:
    equal = {"model": NET, "model_ema": {"n_averaged": torch.tensor(1), **under("module.", NET)}}
    assert chosen(equal, tmp_path).origin.key == "model"
    differ = {"model": NET, "model_ema": {"deep": under("module.", OTHER)}}
    with pytest.raises(ModelError, match=r"model, model_ema\.deep; .*--checkpoint-key"):
        chosen(differ, tmp_path)
    found = chosen(differ, tmp_path, "model_ema.deep")
    assert all(torch.equal(tensor, OTHER[name]) for name, tensor in found.state.items())
    with pytest.raises(ModelError, match=r"no 'ema' to take; there is model, model_ema\.deep$"):
        chosen(differ, tmp_path, "ema")


def test_the_nearest_is_named_where_none_fits(tmp_path: Path) -> None:
    short = dict(list(NET.items())[1:])
    content = {"old": {"x": torch.ones(1)}, "ema": under("module.", short), "best": torch.ones(1)}
    words = "two.pt: ema, without the prefix module., does not fit Net; missing: body.0.weight"
    with pytest.raises(ModelError, match=re.escape(words)):
        chosen(content, tmp_path)
    with pytest.raises(ModelError, match=r"two\.pt: old does not fit Net; missing: "):
        chosen(content, tmp_path, "old")
    strangers = {"best": torch.ones(1), "model": under("other_", NET)}
    with pytest.raises(ModelError, match=r"model does not fit .* unexpected: other_body"):
        chosen(strangers, tmp_path)


def test_a_type_that_could_run_code_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\(argparse\.Namespace\), which could run code"):
        chosen({"model": NET, "args": argparse.Namespace(lr=1)}, tmp_path)


def test_dictionaries_are_found_to_a_depth_and_cycles_end() -> None:
    content: State = {"again": NET}
    content["self"] = content
    assert list(dictionaries({"a": content, "b": NET})) == ["b", "a.again"]
    deep: Any = NET
    for _ in range(MAX_DEPTH):
        deep = {"x": deep}
    assert list(dictionaries(deep)) == ["x.x.x.x"]
    assert dictionaries({"x": deep}) == {}
