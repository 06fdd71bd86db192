"""TorchScript archives: code that somebody hands over, exported where its user trusts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.own import torchscript
from edgepipe.pipeline import export, package, parity, write_report
from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.report.page.again import commands

# torch says so of each call, of a user's own as well.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
Save = Callable[..., Path]
SETTINGS: dict[str, Any] = {
    "trust": True,
    "variants": ("fp32",),
    "input_size": 32,
    "preprocessing": "none",
}


def net(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, classes)).eval()


class Branches(nn.Module):
    """What no tracer sees: a branch on a value; and a dict of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.mix(x)
        scores = scores * 2 if bool(x.sum() > 0) else scores - 1
        return {"score": scores, "sign": torch.sign(scores)}


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Save a module as an archive in the current folder, an empty one."""
    monkeypatch.chdir(tmp_path)

    def saved(module: Any, name: str = "net.torchscript.pt") -> Path:
        torch.jit.save(module, name)
        return Path(name)

    return saved


def traced(module: nn.Module | None = None) -> Any:
    return torch.jit.trace(module or net(), torch.zeros(1, 3, 32, 32))


def verdicts(*runners: str) -> dict[str, str | None]:
    cells = parity(runners=runners).cells
    return {cell.runner: cell.verdict or cell.reason for cell in cells}


def test_an_archive_goes_all_the_way(save: Save, tmp_path: Path) -> None:
    archive = save(traced())
    made = export(str(archive), **SETTINGS)
    assert made.model["name"] == "net"
    assert (made.model["architecture"], made.model["exporter"]) == (
        "net.torchscript.pt",
        "onnx-torchscript",
    )
    assert (made.model["classes"], made.model["macs"]) == (5, None)
    assert made.variants == {"fp32": {"onnx": "fp32.onnx"}}
    assert not (tmp_path / "artifacts/net/fp32.pt2").exists()
    found = verdicts("ort-cpu", "openvino", "torch")
    assert (found["ort-cpu"], found["openvino"]) == ("pass", "pass")
    assert found["torch"] == (
        "torch takes pt2; fp32 is there as onnx: torch.export makes no program of TorchScript"
    )


@pytest.mark.long
def test_it_is_made_again_when_the_archive_is_another_one(save: Save) -> None:
    archive = save(traced())
    first = export(str(archive), **SETTINGS)
    assert export(str(archive), **SETTINGS).to_json() == first.to_json()
    save(traced(net(classes=6)))
    assert export(str(archive), **SETTINGS).model["classes"] == 6


def test_without_trust_nothing_of_it_is_run(save: Save, tmp_path: Path) -> None:
    archive = save(traced())
    with pytest.raises(UsageError, match=r"net\.torchscript\.pt: .* is code, .*: --trust"):
        export(str(archive), **{**SETTINGS, "trust": False})
    assert not (tmp_path / "artifacts/net/manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"exporter": "onnx-dynamo"}, "exporter: onnx-dynamo takes no TorchScript"),
        ({"args": ("classes=3",)}, "takes no arguments"),
        ({"checkpoint": Path("weights.pt")}, "has its weights"),
        ({"weights": "random"}, "the model's own, not both"),
    ],
)
def test_what_can_not_be_said_of_an_archive(save: Save, more: dict[str, Any], words: str) -> None:
    archive = save(traced())
    with pytest.raises(UsageError, match=words):
        export(str(archive), **{**SETTINGS, **more})


def test_trust_is_for_archives(save: Save) -> None:
    with pytest.raises(UsageError, match="trust: it goes with a TorchScript archive"):
        export(weights="random", trust=True)


def test_what_is_no_archive_says_what_to_do(save: Save) -> None:
    torch.save(net().state_dict(), "weights.pt")
    Path("text.pt").write_text("no archive")
    for name, words in (
        ("weights.pt", "--checkpoint FILE"),
        ("text.pt", "not a TorchScript archive"),
        ("none.pt", "No such file"),
    ):
        with pytest.raises(ModelError, match=words):
            export(name, **SETTINGS)


def test_a_branch_and_a_dict_of_heads_stay_what_they_are(save: Save) -> None:
    archive = save(torch.jit.script(Branches().eval()), "branches.pt")
    made = export(str(archive), trust=True, variants=("fp32",), inputs=("x:1x4",), simplify=False)
    assert [one["name"] for one in made.model["outputs"]] == ["score", "sign"]
    assert verdicts("ort-cpu") == {"ort-cpu": "pass"}


def test_what_can_not_run_in_float64_is_one_line(save: Save) -> None:
    # Its weights are constants, which stay in float32.
    archive = save(torch.jit.freeze(traced()))
    with pytest.raises(ModelError, match="does not run in float64") as caught:
        export(str(archive), **SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_a_module_that_is_torchscript_is_taken_as_well(save: Save) -> None:
    save(traced())
    Path("scripted_nets.py").write_text(
        "import torch\nnet = torch.jit.load('net.torchscript.pt')\n"
    )
    made = export("scripted_nets:net", **{**SETTINGS, "trust": None})
    assert (made.model["exporter"], made.model["macs"]) == ("onnx-torchscript", None)
    with pytest.raises(UsageError, match="onnx-dynamo takes no TorchScript"):
        export("scripted_nets:net", exporter="onnx-dynamo", **{**SETTINGS, "trust": None})


def test_the_digest_is_of_code_and_weights_and_not_of_where_they_stood(save: Save) -> None:
    first, second = traced(), traced()
    assert torchscript.digest(first) == torchscript.digest(second)
    with torch.no_grad():
        next(second.parameters()).add_(1)
    assert torchscript.digest(first) != torchscript.digest(second)
    assert torchscript.digest(first) != torchscript.digest(traced(nn.Sequential(net(), nn.ReLU())))


@pytest.mark.long
def test_what_reads_a_program_copes_without(save: Save) -> None:
    export(str(save(traced())), **{**SETTINGS, "formats": ("onnx", "openvino-ir")})
    result = parity(runners=("ort-cpu", "openvino"), explain=True)
    assert {cell.verdict for cell in result.cells} == {"pass"}
    notes = [note for one in result.explanations for note in one.notes]
    assert all("torch.export makes no program" in note for note in notes)
    again = commands(write_report()[0])[0]
    assert again.startswith("edgepipe export net.torchscript.pt --trust ")
    package()
