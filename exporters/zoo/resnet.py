"""ResNet-18 and -50, ResNeXt-50 and -152 (32x4d), with torchvision's parameter names.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv 1512.03385, table 1. Xie, Girshick, Dollár, Tu, He: "Aggregated Residual Transformations for
Deep Neural Networks", CVPR 2017, arXiv 1611.05431, table 1. As in torchvision, the 3x3
convolution of a bottleneck has the stride. torchvision has no 152-layer ResNeXt: its names follow
from the same scheme.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .initial import he_normal

STEM_CHANNELS = 64
# ResNeXt: groups, and channels of each of them in the first stage.
CARDINALITY, GROUP_WIDTH = 32, 4
# In the first of the four stages: a bottleneck's outputs. Each stage doubles them.
BOTTLENECK_CHANNELS = 256

Depths = tuple[int, int, int, int]


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias and batch normalization: the projection of a shortcut."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else conv_bn(inputs, outputs, 1, stride)
        self.channels = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """Reduce (1x1), transform in groups (3x3), restore (1x1), add the shortcut.

    The shortcut is projected where the shape changes.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else conv_bn(inputs, outputs, 1, stride)
        self.channels = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


Make = Callable[[int, int, int], BasicBlock | Bottleneck]


def basic(inputs: int, stage: int, stride: int) -> BasicBlock:
    """A block of ResNet-18; ``stage`` counts from 0."""
    return BasicBlock(inputs, STEM_CHANNELS << stage, stride)


def bottleneck(width: int, groups: int = 1) -> Make:
    """What makes bottlenecks of that width in the first stage."""

    def make(inputs: int, stage: int, stride: int) -> Bottleneck:
        outputs = BOTTLENECK_CHANNELS << stage
        return Bottleneck(inputs, width << stage, outputs, stride, groups)

    return make


class ResNet(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``make`` gives a block for its inputs, its stage and its stride; ``depths`` are the blocks in
    each of the four stages.
    """

    def __init__(self, make: Make, depths: Depths, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = STEM_CHANNELS
        self.stages = tuple(f"layer{number + 1}" for number in range(len(depths)))
        for number, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            blocks = nn.Sequential()
            for block in range(depth):
                stride = 2 if number > 0 and block == 0 else 1
                made = make(channels, number, stride)
                blocks.append(made)
                channels = made.channels
            self.add_module(name, blocks)
        self.fc = nn.Linear(channels, classes)
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


class ResNet18(ResNet):
    """18 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(basic, (2, 2, 2, 2), classes)


class ResNet50(ResNet):
    """50 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(bottleneck(STEM_CHANNELS), (3, 4, 6, 3), classes)


class ResNeXt50(ResNet):
    """50 layers."""

    def __init__(self, classes: int = 1000) -> None:
        made = bottleneck(CARDINALITY * GROUP_WIDTH, CARDINALITY)
        super().__init__(made, (3, 4, 6, 3), classes)


class ResNeXt152(ResNet):
    """152 layers."""

    def __init__(self, classes: int = 1000) -> None:
        made = bottleneck(CARDINALITY * GROUP_WIDTH, CARDINALITY)
        super().__init__(made, (3, 8, 36, 3), classes)
