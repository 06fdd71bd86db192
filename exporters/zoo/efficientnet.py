"""EfficientNet-B0, with torchvision's parameter names.

Tan, Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv 1905.11946, table 1. Its blocks are MobileNetV2's with squeeze-and-excitation (Hu, Shen,
Sun, CVPR 2018, arXiv 1709.01507) and SiLU; whole blocks are dropped in training (Huang, Sun,
Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382).
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_normal

# Table 1: expansion, output channels, repeats, stride of the first repeat, kernel.
BLOCKS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
# The squeezed channels are this part of a block's input, not of its expansion.
SQUEEZE = 4


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias and batch normalization."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def conv_bn_silu(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """The same with the activation behind it."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.SiLU(inplace=True))


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what a small network makes of all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(nn.functional.silu(self.fc1(means))))


class MBConv(nn.Module):
    """Expand (1x1), filter per channel (depthwise), weigh, project (1x1, linear).

    ``drop`` is the probability that training leaves out what the block adds to an image.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int, drop: float
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [conv_bn_silu(inputs, hidden, 1)]
        self.block = nn.Sequential(
            *expand,
            conv_bn_silu(hidden, hidden, kernel, stride, groups=hidden),
            SqueezeExcitation(hidden, max(1, inputs // SQUEEZE)),
            nn.Sequential(*conv_bn(hidden, outputs, 1)),
        )
        self.shortcut = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.shortcut:
            return self.block(x)
        added = self.block(x)
        if self.training and self.drop:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            added = added * kept / (1 - self.drop)
        return x + added


class EfficientNetB0(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``drop`` grows from 0 at the first block to this at the last.
    """

    def __init__(self, classes: int = 1000, dropout: float = 0.2, drop: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_silu(3, STEM_CHANNELS, 3, stride=2)]
        channels, number = STEM_CHANNELS, 0
        total = sum(repeats for _, _, repeats, _, _ in BLOCKS)
        for expansion, outputs, repeats, stride, kernel in BLOCKS:
            stage = []
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                chance = drop * number / total
                stage.append(MBConv(channels, outputs, step, expansion, kernel, chance))
                channels, number = outputs, number + 1
            layers.append(nn.Sequential(*stage))
        layers.append(conv_bn_silu(channels, HEAD_CHANNELS, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(HEAD_CHANNELS, classes))
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
