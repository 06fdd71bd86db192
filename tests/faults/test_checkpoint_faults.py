"""What is no checkpoint, or not this model's: called what it is, listed, and never run.

The rows of the project's fault table that these tests cover: 1 to 3.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.weights import checkpoints, fitting, labels

from .conftest import refused, snapshot

if TYPE_CHECKING:
    import torch

Run = Callable[..., subprocess.CompletedProcess[str]]


class Trap:
    """Unpickled, it creates a file: the code that a checkpoint must never run."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    """A module with a few parameters and a buffer."""
    import torch

    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def empty(path: Path, _net: torch.nn.Module) -> None:
    path.touch()


def text(path: Path, _net: torch.nn.Module) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 14\n")


def json_text(path: Path, _net: torch.nn.Module) -> None:
    path.write_text('{"conv":{"weight": [1.0, 2.0]}, "head": {"bias": [0.5]}}')


def binary(path: Path, _net: torch.nn.Module) -> None:
    path.write_bytes(b"\x7fELF" + bytes(range(256)))


def truncated_zip(path: Path, net: torch.nn.Module) -> None:
    import torch

    torch.save(net.state_dict(), path)
    os.truncate(path, path.stat().st_size // 2)


def truncated_legacy(path: Path, net: torch.nn.Module) -> None:
    import torch

    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    os.truncate(path, path.stat().st_size // 2)


def truncated_safetensors(path: Path, net: torch.nn.Module) -> None:
    from safetensors.torch import save_file

    save_file(net.state_dict(), path)
    os.truncate(path, path.stat().st_size - 5)


def other_zip(path: Path, _net: torch.nn.Module) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no tensors here")


def torchscript(path: Path, net: torch.nn.Module) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), path)


def onnx_model(path: Path, _net: torch.nn.Module, **metadata: str) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "graph", [value], [output])
    onnx.save(onnx.helper.make_model(graph, **metadata), path)


def onnx_of_torch(path: Path, net: torch.nn.Module) -> None:
    onnx_model(path, net, producer_name="pytorch")


def trap(path: Path, net: torch.nn.Module) -> None:
    import torch

    torch.save({**net.state_dict(), "x": Trap(path.with_name("sprung"))}, path)


def legacy_trap(path: Path, net: torch.nn.Module) -> None:
    import torch

    state = {**net.state_dict(), "x": Trap(path.with_name("sprung"))}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def plain_trap(path: Path, _net: torch.nn.Module) -> None:
    path.write_bytes(pickle.dumps({"x": Trap(path.with_name("sprung"))}))


def whole_module(path: Path, net: torch.nn.Module) -> None:
    import torch

    torch.save(net, path)


def list_of_tensors(path: Path, net: torch.nn.Module) -> None:
    import torch

    torch.save(list(net.state_dict().values()), path)


def numbered_tensors(path: Path, net: torch.nn.Module) -> None:
    import torch

    torch.save(dict(enumerate(net.state_dict().values())), path)


NO_CHECKPOINTS: dict[Callable[[Path, Any], None], str] = {
    empty: "an empty file",
    text: "a text file",
    json_text: "a text file",
    binary: "an unknown binary file",
    truncated_zip: "truncated archive",
    truncated_legacy: "damaged or truncated",
    truncated_safetensors: "damaged safetensors",
    other_zip: "a zip archive that is no torch checkpoint",
    torchscript: "a TorchScript archive",
    onnx_model: "an ONNX model",
    onnx_of_torch: "an ONNX model",
    trap: "could run code",
    legacy_trap: "could run code",
    plain_trap: "could run code",
    whole_module: "could run code",
    list_of_tensors: "not a state dict",
    numbered_tensors: "not a state dict",
}


@pytest.mark.parametrize("make", NO_CHECKPOINTS, ids=lambda make: make.__name__)
def test_what_is_no_checkpoint_is_called_what_it_is(
    make: Callable[[Path, Any], None], net: torch.nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    make(path, net)
    with pytest.raises(ModelError) as caught:
        checkpoints.read_states(path)
    assert str(path) in str(caught.value)
    assert NO_CHECKPOINTS[make] in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_checkpoint_cut_anywhere_is_refused(net: torch.nn.Module, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    whole = tmp_path / "whole"
    save_file(net.state_dict(), whole.with_suffix(".safetensors"))
    torch.save(net.state_dict(), whole.with_suffix(".pth"))
    torch.save(net.state_dict(), whole.with_suffix(".pt"), _use_new_zipfile_serialization=False)
    for suffix in (".safetensors", ".pth", ".pt"):
        data, cut = whole.with_suffix(suffix).read_bytes(), tmp_path / f"cut{suffix}"
        assert (
            checkpoints.read_states(whole.with_suffix(suffix))["."].keys()
            == net.state_dict().keys()
        )
        for length in range(0, len(data), 1 + len(data) // 100):
            cut.write_bytes(data[:length])
            with pytest.raises(ModelError, match=re.escape(str(cut))):
                checkpoints.read_states(cut)


@pytest.mark.parametrize("path", ["nowhere.pth", "folder.pth"])
def test_checkpoint_that_can_not_be_opened_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelError, match=path):
        checkpoints.read_states(tmp_path / path)


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    """The architecture with 10 classes."""
    from edgepipe.exporters.zoo.mobilenet_v2 import MobileNetV2

    return MobileNetV2(classes=10)


State = dict[str, Any]


def other_classes(state: State) -> State:
    return {
        key: value.repeat(100, *[1] * (value.dim() - 1)) if key.startswith("classifier") else value
        for key, value in state.items()
    }


MISFITS: dict[Callable[[State], State], tuple[str, ...]] = {
    other_classes: ("wrong shape: classifier.1.weight is (1000, 1280), the model has (10, 1280)",),
    lambda state: dict(list(state.items())[1:]): ("missing: features.0.0.weight",),
    lambda state: {}: ("missing: features.0.0.weight, ", " and "),
    lambda state: {**state, "head.bias": state["classifier.1.bias"]}: ("unexpected: head.bias",),
    lambda state: {f"backbone.{key}": value for key, value in state.items()}: (
        "missing: features.0.0.weight, ",
        "unexpected: backbone.features.0.0.weight, ",
        " more",
    ),
}


@pytest.mark.parametrize(
    "change", MISFITS, ids=["classes", "missing", "empty", "unexpected", "renamed"]
)
def test_weights_of_another_model_are_listed_and_not_loaded(
    change: Callable[[State], State], classifier: torch.nn.Module
) -> None:
    import torch

    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        fitting.load_strictly(classifier, change(before), Path("weights.pth"))
    for words in ("weights.pth does not fit MobileNetV2", *MISFITS[change]):
        assert words in str(caught.value)
    after = classifier.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["inside a training checkpoint", "of DataParallel", "before BatchNorm counted"],
)
def test_weights_in_their_usual_wrappings_are_loaded(
    wrap: Callable[[State], State], classifier: torch.nn.Module, tmp_path: Path
) -> None:
    import torch

    other = type(classifier)(classes=10)
    torch.save(wrap(other.state_dict()), tmp_path / "weights.pth")
    path = tmp_path / "weights.pth"
    states, expected = checkpoints.read_states(path), fitting.Expected.of(classifier)
    fitting.load_strictly(classifier, fitting.choose(states, expected, path).state, path)
    loaded = classifier.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in other.state_dict().items())


# Through the command line ---------------------------------------------------------------------

FP32 = ("--variant", "fp32", "--input-size", "64")


@pytest.mark.parametrize(
    "make", [trap, plain_trap, whole_module, torchscript, onnx_model, text, truncated_zip, empty]
)
def test_the_command_ends_with_3_and_runs_nothing(
    make: Callable[[Path, Any], None], net: torch.nn.Module, edgepipe: Run, tmp_path: Path
) -> None:
    make(tmp_path / "checkpoint.pth", net)
    done = edgepipe("export", "--checkpoint", "checkpoint.pth", *FP32)
    refused(done, 3, "checkpoint.pth", NO_CHECKPOINTS[make])
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "artifacts" / "mobilenet_v2" / "manifest.json").exists()


def test_labels_that_are_not_as_many_as_the_classes_are_refused(
    classifier: torch.nn.Module, edgepipe: Run, tmp_path: Path
) -> None:
    import torch

    torch.save(classifier.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghi"))
    done = edgepipe("export", "--checkpoint", "weights.pt", "--labels", "labels.txt", *FP32)
    words = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert (done.returncode, len(words)) == (3, 1), done.stderr
    assert "weights.pt has weights for 10 classes, the labels name 9" in words[0]
    assert list(snapshot(tmp_path / "artifacts")) == []


def test_weights_of_another_architecture_are_listed(
    edgepipe: Run, net: torch.nn.Module, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    done = edgepipe("export", "--checkpoint", "weights.safetensors", *FP32)
    words = ("does not fit MobileNetV2", "missing: features.0.0.weight", "unexpected: ")
    refused(done, 3, "weights.safetensors", *words, " more")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no labels in it"),
        (b"\n \n", "no labels in it"),
        (b"ant\n\nbee\n", "label 2 is ''"),
        (b"ant\nb\x1b[2Jee\n", "label 2 is "),
        (b"\xff\xfe\x00", "no UTF-8 text"),
        (None, "No such file"),
    ],
    ids=["empty", "blank", "gap", "escape", "binary", "absent"],
)
def test_a_labels_file_that_can_not_be_used_is_named(
    content: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        labels.read_labels(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("labels", "not JSON"),
        ("labels", '["ant", 3]'),
        ("labels", "[]"),
        ("preprocessing", '"imagenet"'),
        ("preprocessing", "[" * 100_000),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(
    key: str, text: str, net: torch.nn.Module, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path, {key: text})
    with pytest.raises(ModelError, match="metadata can't be used"):
        checkpoints.read_metadata(path)
