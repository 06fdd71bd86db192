"""Architectures, a file for each family: name -> where the class is.

A class takes ``classes``, those in ``WITH_WIDTH`` also ``width``, and keyword options of its
own. Parameters have torchvision's names where torchvision has the architecture, so that its
checkpoints load strictly. What is published about each of them is in ``published``.
"""

from __future__ import annotations

ARCHITECTURES = {
    "mobilenet_v2": f"{__name__}.mobilenet_v2:MobileNetV2",
    "mobilenet_v1": f"{__name__}.mobilenet_v1:MobileNetV1",
    "squeezenet1_1": f"{__name__}.squeezenet:SqueezeNet",
    "vgg16": f"{__name__}.vgg:VGG16",
    "resnext50_32x4d": f"{__name__}.resnet:ResNeXt50",
    "resnext152_32x4d": f"{__name__}.resnet:ResNeXt152",
    "inception_v2": f"{__name__}.inception_v2:InceptionV2",
    "efficientnet_b0": f"{__name__}.efficientnet:EfficientNetB0",
    "efficientnet_lite0": f"{__name__}.efficientnet:EfficientNetLite0",
    "mobilenet_v3_small": f"{__name__}.mobilenet_v3:MobileNetV3Small",
    "mobilenet_v3_large": f"{__name__}.mobilenet_v3:MobileNetV3Large",
    "resnet18": f"{__name__}.resnet:ResNet18",
    "resnet50": f"{__name__}.resnet:ResNet50",
    "shufflenet_v2_x1_0": f"{__name__}.shufflenet_v2:ShuffleNetV2",
}
# Architectures that come with a width multiplier.
WITH_WIDTH = frozenset({"mobilenet_v1", "mobilenet_v2"})
