"""Weights to start from, and random ones that are good for timing and parity."""

from __future__ import annotations

import torch
from torch import nn

from ..threads import torch_threads

# Noise that the statistics are taken from: large enough for all strides, small enough to be quick.
SETTLING_SHAPE = (4, 3, 96, 96)
# What normalizations add, in standard deviations. At 0 half of every channel is cut off by the
# activation, and a deep network of random weights turns small differences into large ones, as
# no trained one does: int8 of MobileNetV1 then was 7 dB from fp32.
SETTLED_BIAS = 1.0


def he_normal(module: nn.Module) -> None:
    """Initialize for ReLU networks: convolutions by fan-in, classifiers small, biases zero.

    He, Zhang, Ren, Sun: "Delving Deep into Rectifiers", ICCV 2015, arXiv 1502.01852, equation
    10. The fan-in of a grouped convolution counts the channels of its group only.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def normalize_as_tensorflow(module: nn.Module) -> None:
    """Give every batch normalization what networks from TensorFlow were trained with, in place.

    0.001 is added to the variance, and a training step keeps 0.99 of the running averages.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.momentum = 1e-3, 0.01


def settle(module: nn.Module) -> None:
    """Set every batch normalization's statistics to those of a pass over Gaussian noise, in place.

    Fresh ones normalize nothing, and in a deep network of random weights the activations then
    die out or grow by a power of two with each residual block: outputs that no comparison can
    be made on. Draws from torch's global generator; runs on one thread, so that the same seed
    gives the same bits whatever the number of cores.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        nn.init.constant_(norm.bias, SETTLED_BIAS)
        norm.train()
        norm.momentum = 1.0  # the statistics of this one batch
    with torch_threads(1), torch.no_grad():
        module(torch.randn(SETTLING_SHAPE))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
