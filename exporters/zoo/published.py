"""What is published about each architecture: counts, accuracy, weights. Data, with its sources.

All figures are for 1000 classes and one image of ``input_size``. The weights are torchvision's,
with what its pages say of them (https://docs.pytorch.org/vision/stable/models.html); the hex
digits in a file's name begin its SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass

TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Weights:
    """A file of ImageNet weights, and the preprocessing that its accuracy was measured with.

    ``resize_to`` is the length of the shorter side before the centre crop of ``input_size``.
    """

    file: str
    resize_to: int
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Published:
    """A row. ``parameters`` and ``macs`` (multiply-accumulates) have the digits of the source.

    ``top1`` is of ImageNet's validation images, in per cent, single crop. ``every_operation``:
    the source adds to the multiply-accumulates what normalizations, activations and pools do.
    """

    parameters: float
    macs: float
    counts_from: str
    top1: float
    top1_from: str
    input_size: int = 224
    weights: Weights | None = None
    every_operation: bool = False


PUBLISHED = {
    "mobilenet_v2": Published(
        3_504_872,
        0.301e9,
        TORCHVISION,
        72.154,
        f"{TORCHVISION}, IMAGENET1K_V2",
        weights=Weights("mobilenet_v2-7ebf99e0.pth", 232),
    ),
    "mobilenet_v1": Published(
        4_231_976,
        569e6,
        "osmr/imgclsmob (parameters), arXiv 1704.04861, table 6",
        70.6,
        "arXiv 1704.04861, table 6",
    ),
    "squeezenet1_1": Published(
        1_235_496,
        0.349e9,
        TORCHVISION,
        58.178,
        f"{TORCHVISION}, IMAGENET1K_V1",
        weights=Weights("squeezenet1_1-b8a52dc0.pth", 256),
    ),
    "vgg16": Published(
        138_357_544,
        15.47e9,
        TORCHVISION,
        71.592,
        f"{TORCHVISION}, IMAGENET1K_V1",
        weights=Weights("vgg16-397923af.pth", 256),
    ),
    "resnext50_32x4d": Published(
        25_028_904,
        4.23e9,
        TORCHVISION,
        81.198,
        f"{TORCHVISION}, IMAGENET1K_V2",
        weights=Weights("resnext50_32x4d-1a0047aa.pth", 232),
    ),
    # For ResNeXt-50 the same table says 4.27, where torchvision counts 4.23.
    "resnext152_32x4d": Published(
        59.95e6,
        11.8e9,
        "open-mmlab/mmpretrain, configs/resnext",
        78.88,
        "open-mmlab/mmpretrain, configs/resnext",
        every_operation=True,
    ),
    "inception_v2": Published(
        11.2e6, 1.94e9, "arXiv 1707.07012, table 2", 74.8, "arXiv 1707.07012, table 2"
    ),
    "efficientnet_b0": Published(
        5_288_548,
        0.386e9,
        TORCHVISION,
        77.692,
        f"{TORCHVISION}, IMAGENET1K_V1",
        weights=Weights("efficientnet_b0_rwightman-7f5810bc.pth", 256, "bicubic"),
    ),
    # tensorflow/tpu says 407 million, without how it counts.
    "efficientnet_lite0": Published(
        4_652_008,
        0.385e9,
        "timm, tf_efficientnet_lite0 (parameters), d-li14/efficientnet-lite.pytorch",
        75.1,
        "tensorflow/tpu, efficientnet/lite",
    ),
    "mobilenet_v3_small": Published(
        2_542_856,
        0.057e9,
        TORCHVISION,
        67.668,
        f"{TORCHVISION}, IMAGENET1K_V1",
        weights=Weights("mobilenet_v3_small-047dcff4.pth", 256),
    ),
    "mobilenet_v3_large": Published(
        5_483_032,
        0.217e9,
        TORCHVISION,
        75.274,
        f"{TORCHVISION}, IMAGENET1K_V2",
        weights=Weights("mobilenet_v3_large-5c1a4163.pth", 232),
    ),
    "resnet18": Published(
        11_689_512,
        1.814e9,
        TORCHVISION,
        69.758,
        f"{TORCHVISION}, IMAGENET1K_V1",
        weights=Weights("resnet18-f37072fd.pth", 256),
    ),
    "resnet50": Published(
        25_557_032,
        4.089e9,
        TORCHVISION,
        80.858,
        f"{TORCHVISION}, IMAGENET1K_V2",
        weights=Weights("resnet50-11ad3fa6.pth", 232),
    ),
    "shufflenet_v2_x1_0": Published(
        2_278_604,
        0.145e9,
        TORCHVISION,
        69.362,
        f"{TORCHVISION}, IMAGENET1K_V1",
        weights=Weights("shufflenetv2_x1-5666bf0f80.pth", 256),
    ),
}
