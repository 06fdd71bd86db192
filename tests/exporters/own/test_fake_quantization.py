"""Fake quantization with its ranges fixed: the same answers, as exporters and float64 take them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import qconfig

from edgepipe.exporters.base import ModelError
from edgepipe.exporters.own import fake_quantization


@pytest.fixture(autouse=True)
def old_news() -> Iterator[None]:
    """torch.ao.quantization says on each call that it has moved to torchao."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Net(nn.Module):
    """Convolution with batch normalization and ReLU, one without, a sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.more, self.more_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.quant(x))))
        x = self.sum.add(x, self.more_norm(self.more(x)))
        return self.dequant(self.head(x.mean((2, 3))))


def trained(backend: str | None = "x86", seen: bool = True) -> Any:
    """After a quantization-aware training of three steps, in eval mode."""
    torch.manual_seed(0)
    net: Any = Net().train()
    net.qconfig = quantization.get_default_qat_qconfig(backend or "x86")
    if backend is None:
        net.qconfig = qconfig.default_symmetric_qnnpack_qat_qconfig
    fused = [["conv", "norm", "relu"], ["more", "more_norm"]]
    quantization.fuse_modules_qat(net, fused, inplace=True)
    quantization.prepare_qat(net, inplace=True)
    for _ in range(3 if seen else 0):
        net(torch.randn(8, 3, 12, 12))
    for norm in (net.conv.bn, net.more.bn):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return net.eval()


def images() -> Tensor:
    return torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def sqnr_db(found: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


@pytest.mark.parametrize("backend", ["x86", "qnnpack", "fbgemm", None])
@torch.no_grad()
def test_the_fixed_module_gives_the_same_answers(backend: str | None) -> None:
    net = trained(backend)
    fixed = fake_quantization.fix(net).module
    assert not fake_quantization.holds(fixed)
    # A value on the edge of a step may fall to its other side, no more: seldom, and by one step.
    assert sqnr_db(fixed(images()), net(images())) > 40
    exact = fixed.double()(images().double())
    assert exact.dtype == torch.float64
    assert sqnr_db(exact.float(), net(images())) > 40


@torch.no_grad()
def test_weights_are_on_their_grid_and_stay_there() -> None:
    fixed: Any = fake_quantization.fix(trained()).module
    for part in (fixed.conv, fixed.more, fixed.head):
        assert torch.equal(part.weight_fake_quant(part.weight), part.weight)


@torch.no_grad()
def test_ranges_that_are_still_collected_are_fixed_and_said() -> None:
    net = trained()
    found = fake_quantization.fix(net)
    assert len(found.notes) == 1
    assert "observers still collect ranges: fixed as they are" in found.notes[0]
    first = net(images())
    net(images() * 100)
    assert torch.equal(net(images()), first)
    assert fake_quantization.fix(net).notes == ()


@torch.no_grad()
def test_what_is_off_stays_in_float() -> None:
    net = trained()
    net.head.apply(quantization.disable_fake_quant)
    found: Any = fake_quantization.fix(net)
    assert "2 of 8 fake quantizations are off: these stay in float" in found.notes
    assert torch.equal(found.module.head.weight, net.head.weight)
    net.apply(quantization.disable_fake_quant)
    with pytest.raises(ModelError, match="its fake quantization is off"):
        fake_quantization.fix(net)


def fake(**changes: Any) -> nn.Module:
    return nn.Sequential(quantization.FakeQuantize(**changes))


class LearnedFakeQuantize(nn.Module):
    pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: trained(seen=False), "has seen no data"),
        (lambda: fake(is_dynamic=True, averaging_constant=1), "chooses its range at run time"),
        (lambda: fake(quant_min=0, quant_max=65535, dtype=torch.uint16), "only 8 bits"),
        (lambda: nn.Sequential(LearnedFakeQuantize()), "is LearnedFakeQuantize, which edgepipe"),
        (
            lambda: fake(
                observer=quantization.MovingAveragePerChannelMinMaxObserver,
                qscheme=torch.per_channel_affine_float_qparams,
            ),
            "a zero point that is no integer",
        ),
    ],
)
def test_what_onnx_has_no_node_for_is_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        fake_quantization.fix(make())


def test_observers_alone_quantize_nothing() -> None:
    net: Any = Net().eval()
    net.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(net)
    assert fake_quantization.only_observes(prepared)
    assert not fake_quantization.holds(prepared)
    assert not fake_quantization.only_observes(trained())


@pytest.mark.parametrize(("low", "high"), [(-127, 127), (-8, 7), (0, 15), (0, 127), (-128, 127)])
@torch.no_grad()
def test_narrower_ranges_clamp_where_they_did(low: int, high: int) -> None:
    dtype = torch.qint8 if low < 0 else torch.quint8
    module: Any = fake(quant_min=low, quant_max=high, dtype=dtype)
    x = torch.linspace(-4, 4, 1001)
    module(x)
    fixed = fake_quantization.fix(copy.deepcopy(module)).module
    quantization.disable_observer(module[0])
    wide = 2 * x
    np.testing.assert_allclose(fixed(wide), module(wide), atol=1e-6)
    np.testing.assert_allclose(fixed.double()(wide.double()), module(wide), atol=1e-5)
