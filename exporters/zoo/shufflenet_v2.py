"""ShuffleNetV2 1x, with torchvision's parameter names.

Ma, Zhang, Zheng, Sun: "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", ECCV 2018, arXiv 1807.11164, table 5 and figure 3 (c) and (d). The shuffle is that of
Zhang, Zhou, Lin, Sun: "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
Devices", CVPR 2018, arXiv 1707.01083, figure 1.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_normal
from .mobilenet_v1 import conv_bn_relu
from .mobilenet_v3 import conv_bn

# Table 5, column 1x: blocks and output channels of stages 2 to 4.
STAGES = ((4, 116), (8, 232), (4, 464))
STEM_CHANNELS = 24
HEAD_CHANNELS = 1024


def pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    """Mix the channels (1x1)."""
    return [*conv_bn(inputs, outputs, 1), nn.ReLU(inplace=True)]


def shuffle(x: torch.Tensor) -> torch.Tensor:
    """The channels of both halves by turns."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class InvertedResidual(nn.Module):
    """One half of the channels goes on as it is, the other one through three convolutions.

    With stride 2 there are no halves: all channels go both ways, and are filtered on the first.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.halves = stride == 1
        filtered = [*conv_bn(inputs, inputs, 3, stride, groups=inputs), *pointwise(inputs, half)]
        self.branch1 = nn.Sequential(*([] if self.halves else filtered))
        self.branch2 = nn.Sequential(
            *pointwise(half if self.halves else inputs, half),
            *conv_bn(half, half, 3, stride, groups=half),
            *pointwise(half, half),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, 1) if self.halves else (x, x)
        return shuffle(torch.cat([self.branch1(kept), self.branch2(changed)], 1))


class ShuffleNetV2(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(3, STEM_CHANNELS, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = STEM_CHANNELS
        self.stages = tuple(f"stage{number}" for number in range(2, 2 + len(STAGES)))
        for name, (repeats, outputs) in zip(self.stages, STAGES, strict=True):
            blocks = nn.Sequential()
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, 2 if repeat == 0 else 1))
                channels = outputs
            self.add_module(name, blocks)
        self.conv5 = conv_bn_relu(channels, HEAD_CHANNELS, 1)
        self.fc = nn.Linear(HEAD_CHANNELS, classes)
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(self.conv5(x).mean((2, 3)))
