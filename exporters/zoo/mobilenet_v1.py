"""MobileNetV1, written from the paper.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam: "MobileNets: Efficient
Convolutional Neural Networks for Mobile Vision Applications", 2017, arXiv 1704.04861. Table 1
gives the layers, section 3.3 the width multiplier. torchvision has no MobileNetV1: the names
are those of this package's MobileNetV2.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_normal
from .mobilenet_v2 import round_channels

# Table 1: output channels and stride of each depthwise separable convolution.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
STEM_CHANNELS = 32


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch normalization, ReLU: figure 3 of the paper."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def depthwise_separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Filter each channel (3x3 depthwise), then mix the channels (1x1 pointwise)."""
    return nn.Sequential(
        conv_bn_relu(inputs, inputs, kernel=3, stride=stride, groups=inputs),
        conv_bn_relu(inputs, outputs, kernel=1),
    )


class MobileNetV1(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``width`` is the paper's width multiplier, of all channels but the three of the input.
    """

    def __init__(self, classes: int = 1000, width: float = 1.0, dropout: float = 0.001) -> None:
        super().__init__()
        channels = round_channels(STEM_CHANNELS * width)
        layers: list[nn.Module] = [conv_bn_relu(3, channels, kernel=3, stride=2)]
        for base, stride in BLOCKS:
            outputs = round_channels(base * width)
            layers.append(depthwise_separable(channels, outputs, stride))
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, classes))
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
