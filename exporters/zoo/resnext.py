"""ResNeXt-50 and ResNeXt-152 (32x4d), with torchvision's parameter names.

Xie, Girshick, Dollár, Tu, He: "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017, arXiv 1611.05431, table 1; the depths are those of ResNet (He, Zhang, Ren, Sun,
CVPR 2016, arXiv 1512.03385, table 1). As in torchvision, the 3x3 convolution has the stride.
torchvision has no 152-layer ResNeXt: its names follow from the same scheme.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_normal

CARDINALITY, GROUP_WIDTH = 32, 4
STEM_CHANNELS = 64
# Output channels of the four stages, and the width of the bottleneck in the first of them.
STAGE_CHANNELS = (256, 512, 1024, 2048)
BOTTLENECK = CARDINALITY * GROUP_WIDTH


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias and batch normalization: the projection of a shortcut."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Bottleneck(nn.Module):
    """Reduce (1x1), transform in 32 groups (3x3), restore (1x1), add the shortcut.

    The shortcut is projected where the shape changes.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNeXt(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``depths`` are the bottlenecks in each of the four stages.
    """

    def __init__(self, depths: tuple[int, int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = STEM_CHANNELS
        for number, (depth, outputs) in enumerate(zip(depths, STAGE_CHANNELS, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if number > 0 and block == 0 else 1
                blocks.append(Bottleneck(channels, BOTTLENECK << number, outputs, stride))
                channels = outputs
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(len(STAGE_CHANNELS)):
            x = self.get_submodule(f"layer{number + 1}")(x)
        return self.fc(x.mean((2, 3)))


class ResNeXt50(ResNeXt):
    """50 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__((3, 4, 6, 3), classes)


class ResNeXt152(ResNeXt):
    """152 layers."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__((3, 8, 36, 3), classes)
