"""A module is whatever people train: what can't be held to is said, at export and in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]
NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """Convolution, mean, linear: ``after`` is what is done with the outputs."""

    def __init__(self, after=lambda x: x, before=lambda x: x):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.after, self.before = after, before

    def forward(self, x):
        return self.after(self.head(self.conv(self.before(x)).mean((2, 3))))


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x)


class Logs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.log = Net(), Log()

    def forward(self, x):
        return self.log(self.net(x))


class Pool(nn.Module):
    def forward(self, x):
        return nn.functional.max_pool2d(x, 32).flatten(1)


def random(): return Net(lambda x: x + torch.randn(1, 5))
def dropout():
    return Net(lambda x: nn.functional.dropout(x, 0.5, training=True))
def constant(): return Net(before=torch.zeros_like)
def cast(): return Net(before=lambda x: x.float())
def logs(): return Logs()
def pool(): return Pool()
def soft(): return Net(lambda x: torch.softmax(x, 1))
def compiled(): return torch.compile(Net())
def parallel(): return nn.DataParallel(Net())
def grey(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 900, 5))
def meta(): return Net().to("meta")
def quantized():
    return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}, torch.qint8)
def qat():
    net = Net().train()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return torch.ao.quantization.prepare_qat(net)
'''
FLAGS = ("--input-size", "32", "--preprocessing", "none", "--calibration", "synthetic")


@pytest.fixture
def export(edgepipe: Run, tmp_path: Path) -> Callable[[str], CompletedProcess[str]]:
    (tmp_path / "nets.py").write_text(NETS)
    return lambda name: edgepipe("export", f"nets:{name}", "--variant", "fp32", *FLAGS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("random", "answers one input differently each time (randn)"),
        ("dropout", "answers one input differently each time (dropout)"),
        ("meta", "meta device"),
        ("quantized", "is quantized by PyTorch already"),
        ("qat", "fake quantization"),
        ("grey", "its first convolution takes 1 channel: --channels 1, or convert them in forward"),
    ],
)
def test_what_has_no_answer_to_hold_to_is_refused(
    name: str, says: str, export: Callable[[str], CompletedProcess[str]], tmp_path: Path
) -> None:
    done = export(name)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"edgepipe: nets:{name}")
    assert says in last
    assert not (tmp_path / "artifacts" / name / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "warns", "parity"),
    [
        ("constant", "does not depend on the input: parity will fail", 1),
        ("logs", "are NaN or infinite, first in log: parity will fail", 1),
        ("cast", "its float64 reference is the exported program's with these casts raised", 0),
        ("pool", "", 0),
        pytest.param("compiled", "", 0, marks=pytest.mark.long),
        pytest.param("parallel", "", 0, marks=pytest.mark.long),
    ],
)
def test_what_is_odd_about_a_module_is_said_and_judged(
    name: str,
    warns: str,
    parity: int,
    export: Callable[[str], CompletedProcess[str]],
    edgepipe: Run,
    tmp_path: Path,
) -> None:
    done = export(name)
    assert done.returncode == 0, done.stderr
    assert warns in done.stderr
    judged = edgepipe("parity", "--model", name, "--runner", "ort-cpu", "--json")
    assert judged.returncode == parity, judged.stdout + judged.stderr
    assert "Traceback" not in judged.stderr

    def refuse(word: str) -> None:
        raise AssertionError(word)

    folder = tmp_path / "artifacts" / name
    for file in ("manifest.json", "parity.json"):
        json.loads((folder / file).read_text(), parse_constant=refuse)


def test_what_the_scores_are_is_a_fact_of_the_export(
    export: Callable[[str], CompletedProcess[str]], tmp_path: Path
) -> None:
    assert export("soft").returncode == 0
    manifest = json.loads((tmp_path / "artifacts" / "soft" / "manifest.json").read_text())
    assert manifest["model"]["outputs"][0]["scores"] == "probabilities"


def test_a_name_is_what_to_call_it_and_not_what_to_export(edgepipe: Run, tmp_path: Path) -> None:
    flags = ("--weights", "random", "--input-size", "32", "--variant", "fp32")
    done = edgepipe("export", "--name", "dyn", *flags)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "artifacts" / "dyn" / "manifest.json").read_text())
    assert manifest["model"]["architecture"] == "mobilenet_v2"


@pytest.mark.long
def test_compare_counts_a_model_of_any_batch(
    export: Callable[[str], CompletedProcess[str]], edgepipe: Run, tmp_path: Path
) -> None:
    """For one image, and without reading a program: what export recorded."""
    (tmp_path / "nets.py").write_text(NETS)
    flags = ("--variant", "fp32", *FLAGS, "--batch", "dynamic")
    assert edgepipe("export", "nets:soft", "--name", "open", *flags).returncode == 0
    assert export("soft").returncode == 0
    done = edgepipe("compare", "--static", "--workspace", "artifacts", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads(done.stdout)["models"]}
    kept = ("parameters", "macs", "activation_peak_bytes")
    assert [rows["open"][name] for name in kept] == [rows["soft"][name] for name in kept]
    assert rows["soft"]["macs"] == 30 * 30 * 8 * 27 + 8 * 5
