"""Inception v2: the network with batch normalization of Ioffe and Szegedy, "BN-Inception".

Ioffe, Szegedy: "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", ICML 2015, arXiv 1502.03167, figure 5. As its appendix says, the first
convolution is a separable one with depth multiplier 8. The authors' own implementation
(https://github.com/tensorflow/models, research/slim/nets/inception_v2.py) agrees in every
channel; a version for Caffe that went round differs in the first convolution and in two pools.
torchvision has no such network, so that the names are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .initial import he_normal
from .mobilenet_v1 import conv_bn_relu

DEPTH_MULTIPLIER = 8


@dataclass(frozen=True)
class Widths:
    """A row of figure 5: the channels of an Inception module's branches.

    ``single`` and ``double`` are (reduced, output) of the branches with one and with two 3x3
    convolutions. ``pool`` names the pooling, ``projected`` is the 1x1 convolution behind it.
    Without ``one`` and ``projected`` the module halves the resolution, and the pooled input is
    handed on as it is.
    """

    one: int
    single: tuple[int, int]
    double: tuple[int, int]
    pool: str
    projected: int


MODULES = {
    "3a": Widths(64, (64, 64), (64, 96), "avg", 32),
    "3b": Widths(64, (64, 96), (64, 96), "avg", 64),
    "3c": Widths(0, (128, 160), (64, 96), "max", 0),
    "4a": Widths(224, (64, 96), (96, 128), "avg", 128),
    "4b": Widths(192, (96, 128), (96, 128), "avg", 128),
    "4c": Widths(160, (128, 160), (128, 160), "avg", 96),
    "4d": Widths(96, (128, 192), (160, 192), "avg", 96),
    "4e": Widths(0, (128, 192), (192, 256), "max", 0),
    "5a": Widths(352, (192, 320), (160, 224), "avg", 128),
    "5b": Widths(352, (192, 320), (192, 224), "max", 128),
}


class Inception(nn.Module):
    """Branches side by side, their outputs concatenated: figure 5 gives ``widths``."""

    def __init__(self, inputs: int, widths: Widths) -> None:
        super().__init__()
        stride = 1 if widths.one else 2
        self.branch_1x1 = conv_bn_relu(inputs, widths.one, 1) if widths.one else None
        reduced, outputs = widths.single
        self.branch_3x3 = nn.Sequential(
            conv_bn_relu(inputs, reduced, 1), conv_bn_relu(reduced, outputs, 3, stride)
        )
        reduced, doubled = widths.double
        self.branch_3x3_double = nn.Sequential(
            conv_bn_relu(inputs, reduced, 1),
            conv_bn_relu(reduced, doubled, 3),
            conv_bn_relu(doubled, doubled, 3, stride),
        )
        pool = (
            nn.MaxPool2d(3, stride, 1)
            if widths.pool == "max"
            else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        )
        projected = [conv_bn_relu(inputs, widths.projected, 1)] if widths.projected else []
        self.branch_pool = nn.Sequential(pool, *projected)
        self.channels = widths.one + outputs + doubled + (widths.projected or inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [] if self.branch_1x1 is None else [self.branch_1x1(x)]
        branches += [self.branch_3x3(x), self.branch_3x3_double(x), self.branch_pool(x)]
        return torch.cat(branches, 1)


class InceptionV2(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``."""

    def __init__(self, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        filters = 3 * DEPTH_MULTIPLIER
        self.stem = nn.Sequential(
            nn.Conv2d(3, filters, 7, stride=2, padding=3, groups=3, bias=False),
            conv_bn_relu(filters, 64, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
            conv_bn_relu(64, 64, 1),
            conv_bn_relu(64, 192, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = 192
        self.inception = nn.Sequential()
        for name, widths in MODULES.items():
            module = Inception(channels, widths)
            self.inception.add_module(name, module)
            channels = module.channels
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, classes))
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.inception(self.stem(x)).mean((2, 3)))
