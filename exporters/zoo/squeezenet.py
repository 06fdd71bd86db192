"""SqueezeNet 1.1, with torchvision's parameter names.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: "SqueezeNet: AlexNet-level accuracy with 50x
fewer parameters and <0.5MB model size", 2016, arXiv 1602.07360. Version 1.1 is the authors'
own revision (https://github.com/forresti/SqueezeNet, SqueezeNet_v1.1): smaller first filters
and earlier pooling, 2.4 times fewer operations than version 1.0 at its accuracy.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_normal

STEM_CHANNELS = 64
# Squeezed and expanded channels of the Fire modules between poolings, as in version 1.1.
STAGES = (
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192), (64, 256), (64, 256)),
)


class Fire(nn.Module):
    """Squeeze to few channels (1x1), then expand by a 1x1 and a 3x3 convolution side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.squeeze(x))
        return self.activation(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    There is no linear layer: the class scores are a convolution's, averaged. They go through a
    ReLU, so that no logit is negative.
    """

    def __init__(self, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, STEM_CHANNELS, 3, stride=2),
            nn.ReLU(inplace=True),
        ]
        channels = STEM_CHANNELS
        for stage in STAGES:
            layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            for squeezed, expanded in stage:
                layers.append(Fire(channels, squeezed, expanded))
                channels = 2 * expanded
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Conv2d(channels, classes, 1), nn.ReLU(inplace=True)
        )
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).mean((2, 3))
