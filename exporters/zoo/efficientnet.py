"""EfficientNet-B0, with torchvision's parameter names, and EfficientNet-Lite0, with timm's.

Tan, Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv 1905.11946, table 1. Its blocks are MobileNetV3's with SiLU; whole blocks are dropped in
training (Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016,
arXiv 1603.09382).

Lite0 is B0 for edge devices: ReLU6 in SiLU's place and no squeeze-and-excitation
(https://github.com/tensorflow/tpu, models/official/efficientnet/lite). torchvision has none, so
that the names are those under which its weights are found: timm's ``tf_efficientnet_lite0``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .initial import he_normal, normalize_as_tensorflow
from .mobilenet_v3 import InvertedResidual, SqueezeExcitation, conv_bn

# Table 1: expansion, output channels, repeats, stride of the first repeat, kernel.
STAGES = (
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


@dataclass(frozen=True)
class Block:
    """``hidden`` are the expanded channels, ``drop`` is the probability that training leaves out
    what the block adds to an image.
    """

    inputs: int
    hidden: int
    outputs: int
    stride: int
    kernel: int
    drop: float

    @property
    def shortcut(self) -> bool:
        """Whether input and output have the same shape, and are added."""
        return self.stride == 1 and self.inputs == self.outputs


def blocks(drop: float) -> Iterator[list[Block]]:
    """The blocks of each stage; ``drop`` grows from 0 at the first one to this at the last."""
    inputs, number = STEM_CHANNELS, 0
    total = sum(repeats for _, _, repeats, _, _ in STAGES)
    for expansion, outputs, repeats, stride, kernel in STAGES:
        stage = []
        for repeat in range(repeats):
            step, chance = stride if repeat == 0 else 1, drop * number / total
            stage.append(Block(inputs, inputs * expansion, outputs, step, kernel, chance))
            inputs, number = outputs, number + 1
        yield stage


def surviving(added: torch.Tensor, drop: float) -> torch.Tensor:
    """What a block adds to each image of a batch, left out with probability ``drop``."""
    kept = torch.rand(len(added), 1, 1, 1, device=added.device) >= drop
    return added * kept / (1 - drop)


def conv_bn_silu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalization, SiLU."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride), nn.SiLU(inplace=True))


class MBConv(InvertedResidual):
    """MobileNetV3's block with SiLU, which training leaves out now and then."""

    def __init__(self, block: Block) -> None:
        squeezed = max(1, block.inputs // SQUEEZE)
        super().__init__(
            block.inputs,
            block.hidden,
            block.outputs,
            kernel=block.kernel,
            stride=block.stride,
            activation=nn.SiLU,
            excitation=SqueezeExcitation(block.hidden, squeezed, nn.SiLU(), nn.Sigmoid()),
        )
        self.drop = block.drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.shortcut and self.training and self.drop):
            return super().forward(x)
        return x + surviving(self.block(x), self.drop)


class EfficientNetB0(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``drop`` grows from 0 at the first block to this at the last.
    """

    def __init__(self, classes: int = 1000, dropout: float = 0.2, drop: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_silu(3, STEM_CHANNELS, 3, stride=2)]
        layers += [nn.Sequential(*map(MBConv, stage)) for stage in blocks(drop)]
        layers.append(conv_bn_silu(STAGES[-1][1], HEAD_CHANNELS, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(HEAD_CHANNELS, classes))
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class SameConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "SAME" does.

    The output has ``ceil(side / stride)`` rows and columns; of an odd number of added ones the
    one more is at the bottom and on the right. With stride 2 and an even side PyTorch's padding
    would see other pixels.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch names it so)
        sides = zip(input.shape[2:], self.kernel_size, self.stride, strict=True)
        high, wide = (max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in sides)
        if high % 2 == wide % 2 == 0:
            padding = (high // 2, wide // 2)
            return nn.functional.conv2d(
                input, self.weight, None, self.stride, padding, groups=self.groups
            )
        ends = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        return super().forward(nn.functional.pad(input, ends))


class LiteBlock(nn.Sequential):
    """Expand (1x1), filter per channel (depthwise), project (1x1, linear), all under timm's names.

    Training leaves out what it adds now and then.
    """

    def __init__(self, block: Block) -> None:
        hidden = block.hidden
        filters = SameConv2d(hidden, hidden, block.kernel, block.stride, groups=hidden)
        projects = SameConv2d(hidden, block.outputs, 1)
        layers: dict[str, nn.Module] = (
            {
                **_unit("conv_dw", filters, "bn1", "act1"),
                **_unit("conv_pw", projects, "bn2"),
            }
            if hidden == block.inputs
            else {
                **_unit("conv_pw", SameConv2d(block.inputs, hidden, 1), "bn1", "act1"),
                **_unit("conv_dw", filters, "bn2", "act2"),
                **_unit("conv_pwl", projects, "bn3"),
            }
        )
        super().__init__(OrderedDict(layers))
        self.shortcut, self.drop = block.shortcut, block.drop

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch names it so)
        added = super().forward(input)
        if not self.shortcut:
            return added
        return input + (surviving(added, self.drop) if self.training and self.drop else added)


def _unit(name: str, conv: nn.Conv2d, norm: str, activation: str = "") -> dict[str, nn.Module]:
    """A convolution with what stands behind it, by name."""
    made: dict[str, nn.Module] = {name: conv, norm: nn.BatchNorm2d(conv.out_channels)}
    return made | ({activation: nn.ReLU6(inplace=True)} if activation else {})


class EfficientNetLite0(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    ``drop`` is as in ``EfficientNetB0``.
    """

    def __init__(self, classes: int = 1000, dropout: float = 0.2, drop: float = 0.2) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.act1 = nn.ReLU6(inplace=True)
        self.blocks = nn.Sequential(
            *(nn.Sequential(*map(LiteBlock, stage)) for stage in blocks(drop))
        )
        self.conv_head = SameConv2d(STAGES[-1][1], HEAD_CHANNELS, 1)
        self.bn2 = nn.BatchNorm2d(HEAD_CHANNELS)
        self.act2 = nn.ReLU6(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)
        he_normal(self)
        normalize_as_tensorflow(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.bn1(self.conv_stem(x)))
        x = self.act2(self.bn2(self.conv_head(self.blocks(x))))
        return self.classifier(self.dropout(x.mean((2, 3))))
