"""MobileNetV3, small and large, with torchvision's parameter names.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam: "Searching for
MobileNetV3", ICCV 2019, arXiv 1905.02244, tables 1 and 2. Its blocks are MobileNetV2's with
squeeze-and-excitation (Hu, Shen, Sun, CVPR 2018, arXiv 1709.01507) and, further down, hard swish
(section 5.2). As in torchvision, the means of the head come before its activation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .initial import he_normal, normalize_as_tensorflow
from .mobilenet_v2 import round_channels


class Row(NamedTuple):
    """A block of the paper's tables: kernel, "exp size", "#out", SE, NL, s.

    ``hard`` is whether the nonlinearity is hard swish, ReLU otherwise.
    """

    kernel: int
    hidden: int
    outputs: int
    excited: bool
    hard: bool
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)
STEM_CHANNELS = 16
# The last convolution has this many times the channels of the last block.
LAST_EXPANSION = 6
# The squeezed channels are this part of a block's expansion.
SQUEEZE = 4


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias and batch normalization."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what a small network makes of all channels' means."""

    def __init__(
        self, channels: int, squeezed: int, activation: nn.Module, gate: nn.Module
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(means))))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter per channel (depthwise), ``excitation``, project (1x1, linear).

    ``activation`` is made behind the first two, and takes ``inplace``. The shortcut joins the
    narrow ends, where input and output have the same shape.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        activation: type[nn.Module],
        excitation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(nn.Sequential(*conv_bn(inputs, hidden, 1), activation(inplace=True)))
        depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        layers.append(nn.Sequential(*depthwise, activation(inplace=True)))
        if excitation is not None:
            layers.append(excitation)
        layers.append(nn.Sequential(*conv_bn(hidden, outputs, 1)))
        self.block = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


class MobileNetV3(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``rows`` are the blocks, ``head`` is the width of the linear layer behind the means.
    """

    def __init__(self, rows: tuple[Row, ...], head: int, classes: int, dropout: float) -> None:
        super().__init__()
        stem = nn.Sequential(*conv_bn(3, STEM_CHANNELS, 3, stride=2), nn.Hardswish(inplace=True))
        layers: list[nn.Module] = [stem]
        channels = STEM_CHANNELS
        for row in rows:
            layers.append(_block(channels, row))
            channels = row.outputs
        last = LAST_EXPANSION * channels
        layers.append(nn.Sequential(*conv_bn(channels, last, 1), nn.Hardswish(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(last, head),
            nn.Hardswish(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(head, classes),
        )
        he_normal(self)
        normalize_as_tensorflow(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class MobileNetV3Small(MobileNetV3):
    """Table 2."""

    def __init__(self, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__(SMALL, 1024, classes, dropout)


class MobileNetV3Large(MobileNetV3):
    """Table 1."""

    def __init__(self, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__(LARGE, 1280, classes, dropout)


def _block(inputs: int, row: Row) -> InvertedResidual:
    squeezed = round_channels(row.hidden // SQUEEZE)
    excitation = SqueezeExcitation(row.hidden, squeezed, nn.ReLU(), nn.Hardsigmoid())
    return InvertedResidual(
        inputs,
        row.hidden,
        row.outputs,
        kernel=row.kernel,
        stride=row.stride,
        activation=nn.Hardswish if row.hard else nn.ReLU,
        excitation=excitation if row.excited else None,
    )
