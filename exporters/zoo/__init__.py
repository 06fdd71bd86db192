"""Architectures, one file each: name -> where the class is.

A class takes ``classes`` and keyword options of its own, and uses torchvision's parameter
names where torchvision has the architecture.
"""

from __future__ import annotations

ARCHITECTURES = {
    "mobilenet_v2": f"{__name__}.mobilenet_v2:MobileNetV2",
}
