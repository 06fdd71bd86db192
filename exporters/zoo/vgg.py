"""VGG-16, with torchvision's parameter names.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, arXiv 1409.1556, table 1, configuration D.
"""

from __future__ import annotations

import torch
from torch import nn

from .initial import he_normal

# Table 1, column D: the channels of the 3x3 convolutions before each pooling.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
POOLED = 7
HIDDEN = 4096


class VGG16(nn.Module):
    """Image classifier: float32 ``[N, 3, H, W]`` -> logits ``[N, classes]``.

    The linear layers want 7x7 features, which is what 224x224 pixels give; those of other
    sizes are averaged to it.
    """

    def __init__(self, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for outputs in stage:
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(2, stride=2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(POOLED)
        self.classifier = nn.Sequential(
            nn.Linear(channels * POOLED**2, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, classes),
        )
        he_normal(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))
